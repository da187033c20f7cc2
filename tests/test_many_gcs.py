"""Models in Google Cloud Storage: a real server of its protocol (gcp-storage-emulator's) on this machine.

Skipped where gcsfs or gcp-storage-emulator are not installed (``pip install 'bnfuse[test-remote]'``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli_models import outputs_of
from tests.command import call
from tests.many_models import save
from tests.report_schema import assert_many_fit

if find_spec("gcsfs") is None:  # imported below, once it is told where to ask and what not
    pytest.skip("gcsfs is not installed (bnfuse[remote])", allow_module_level=True)
emulator: Any = pytest.importorskip(
    "gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed (bnfuse[test-remote])"
)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket called "zoo", as a client sees it."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="zoo")
    server.start()
    monkeypatch.setenv("BNFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
    # Else gcsfs asks by gRPC what kind of bucket it is, which the emulator does not speak, for a minute.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nor is there a machine of the cloud to ask for a token
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem(token="anon", skip_instance_cache=True)
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


def test_a_bucket_is_taken_through_and_results_go_beside_the_models(bucket: Any, tmp_path: Path) -> None:
    original = save(tmp_path / "a.onnx")
    for name in ("run/a.onnx", "run/deep/b.onnx"):
        bucket.pipe(f"zoo/{name}", original.read_bytes())
    bucket.pipe("zoo/run/broken.onnx", b"garbage")
    words = ("optimize", "gs://zoo/run", "-r", "--resume", "--json", "-j", "1", "--no-bench")
    ends = []
    for _ in range(2):
        type(bucket).clear_instance_cache()
        document = json.loads(call(*words, "--verify-time", "0.2").stdout)
        assert_many_fit(document)
        ends.append({one["model"]: (one["exit_code"], one["resumed"]) for one in document["reports"]})
    assert ends[0] == {
        "gs://zoo/run/a.onnx": (0, False),
        "gs://zoo/run/broken.onnx": (3, False),
        "gs://zoo/run/deep/b.onnx": (0, False),
    }
    assert ends[1] == {
        "gs://zoo/run/a.onnx": (0, True),
        "gs://zoo/run/broken.onnx": (3, False),
        "gs://zoo/run/deep/b.onnx": (0, True),
    }
    bucket.invalidate_cache()
    (tmp_path / "back.onnx").write_bytes(bucket.cat_file("zoo/run/deep/b.fused.onnx"))
    x = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)
    before, after = outputs_of(original, x), outputs_of(tmp_path / "back.onnx", x)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))
