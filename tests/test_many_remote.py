"""Models behind addresses: a real web server, and a real S3 server (moto's) on this machine.

Skipped where fsspec, s3fs, aiohttp or moto are not installed (``pip install 'bnfuse[test-remote]'``).
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfuse
from bnfuse.results import Status
from bnfuse.use_cases.verify import VerifyRequest
from tests.cli_models import convnet, outputs_of
from tests.command import call
from tests.many_models import Inline, save
from tests.report_schema import assert_fits, assert_many_fit

pytest.importorskip("fsspec", reason="fsspec is not installed (bnfuse[remote])")
pytest.importorskip("aiohttp", reason="aiohttp is not installed (bnfuse[remote])")

QUICK = VerifyRequest(samples=2)
X = np.random.default_rng(3).standard_normal((2, 3, 9, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNFUSE_CACHE", str(tmp_path / "cache"))


class _Quiet(SimpleHTTPRequestHandler):
    """The standard library's server, which knows of no ranges."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that is behind it."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class _Ranged(_Quiet):
    """One that gives ranges, and counts what it gives."""

    given = 0

    def do_GET(self) -> None:
        """The range that is asked for."""
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        _Ranged.given += len(part)

    def end_headers(self) -> None:
        """With what tells a client that ranges are to be had."""
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """An S3 bucket called "zoo", as a client sees it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (bnfuse[remote])")
    moto = pytest.importorskip("moto.server", reason="moto is not installed (bnfuse[test-remote])")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket="zoo")
        yield client
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def external(folder: Path, name: str = "ext") -> Path:
    """A model whose weights lie in a file beside it."""
    path = folder / f"{name}.onnx"
    onnx.save_model(convnet(), path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
    return path


def keys(bucket: Any, prefix: str) -> list[str]:
    found = bucket.list_objects_v2(Bucket="zoo", Prefix=prefix).get("Contents", [])
    return sorted(each["Key"].removeprefix(prefix) for each in found)


def fresh() -> None:
    """What a client remembers of a store's listings is forgotten: another process would not have it."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def test_a_model_of_the_web_is_folded_into_a_folder_and_told_as_one(
    web: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = web
    save(folder / "net.onnx")
    done = call(
        *("optimize", f"{address}/net.onnx", "--output-dir", tmp_path / "out", "--json"),
        *("--no-bench", "--verify-time", "0.2"),
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert_fits(document)
    assert document["input"]["path"] == f"{address}/net.onnx"
    assert document["output"]["path"] == str(tmp_path / "out" / "net.fused.onnx")
    before = outputs_of(folder / "net.onnx", X)
    after = outputs_of(tmp_path / "out" / "net.fused.onnx", X)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))


def test_weights_beside_a_model_come_with_it(web: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = web
    external(folder)
    (made,) = bnfuse.optimize_many(
        f"{address}/ext.onnx", tmp_path, executor=Inline(), verify=QUICK, bench=False
    )
    assert made.failure is None, made.failure
    assert made.report is not None
    assert made.report.verification.status is Status.EQUAL
    after = outputs_of(tmp_path / "ext.fused.onnx", X)
    before = outputs_of(folder / "ext.onnx", X)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))


REFUSED = [
    ("gone.onnx", 3, "{}/gone.onnx does not exist: check the address of the model"),
    ("garbage.onnx", 3, "'{}/garbage.onnx' is not a model bnfuse can read: expected Keras or ONNX"),
    ("lost.onnx", 3, "{}/lost.weights does not exist: check the address of the model"),
    ("", 3, "{}/ names no file: give the address of a model"),
]


@pytest.mark.parametrize(("name", "code", "says"), REFUSED)
def test_what_is_not_there_is_one_sentence_about_its_address(
    web: tuple[str, Path], name: str, code: int, says: str
) -> None:
    address, folder = web
    (folder / "garbage.onnx").write_bytes(b"no model at all")
    external(folder, "lost")
    (folder / "lost.weights").unlink()
    done = call("inspect", f"{address}/{name}")
    assert (done.exit_code, done.stderr) == (code, f"bnfuse: {says.format(address)}\n")


def test_what_leads_out_of_its_folder_is_not_asked_for(web: tuple[str, Path]) -> None:
    address, folder = web
    save(folder / "secret")
    model = onnx.load(external(folder, "deep"), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../secret"
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "evil.onnx").write_bytes(model.SerializeToString())
    done = call("inspect", f"{address}/in/evil.onnx")
    assert done.exit_code == 3
    assert "outside its folder; bnfuse does not follow it" in done.stderr


def test_no_more_is_brought_than_is_allowed(web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what arrives: a server may say anything about sizes."""
    address, folder = web
    save(folder / "net.onnx")
    monkeypatch.setenv("BNFUSE_DOWNLOAD_LIMIT", "5e-7")  # 500 bytes
    done = call("inspect", f"{address}/net.onnx")
    assert done.exit_code == 3
    assert "larger than 5e-07 GB, which may be brought here" in done.stderr
    monkeypatch.setenv("BNFUSE_DOWNLOAD_LIMIT", "much")
    assert call("inspect", f"{address}/net.onnx").exit_code == 2


def large(folder: Path, *, beside: bool) -> Path:
    """40 MB of weights that no fold needs, behind a Conv and a BatchNormalization; ``beside`` in a file."""
    model = convnet()
    wide = np.zeros((35, 300_000), np.float32)  # a Gemm of 42 MB
    graph = model.graph
    graph.node[-1].output[0] = "s"
    graph.node.extend(
        [
            onnx.helper.make_node("GlobalAveragePool", ["s"], ["p"]),
            onnx.helper.make_node("Flatten", ["p"], ["f"]),
            onnx.helper.make_node("Sigmoid", ["f"], ["g"]),
            onnx.helper.make_node("MatMul", ["g", "wide"], ["y"]),
        ]
    )
    graph.initializer.append(onnx.numpy_helper.from_array(wide[:5], "wide"))
    graph.initializer.append(onnx.numpy_helper.from_array(wide, "unused"))
    path = folder / f"large-{beside}.onnx"
    onnx.save_model(
        model, path, save_as_external_data=beside, location=f"large-{beside}.data", size_threshold=1024
    )
    return path


@pytest.mark.parametrize("beside", [False, True])
def test_of_a_large_model_only_what_is_looked_at_is_asked_for(tmp_path: Path, beside: bool) -> None:
    """The plan is that of the whole file; to fold it, all of it is brought."""
    path = large(tmp_path, beside=beside)
    whole = sum(each.stat().st_size for each in tmp_path.iterdir())
    handler = functools.partial(_Ranged, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{path.name}"
        _Ranged.given = 0
        (made,) = bnfuse.optimize_many(address, executor=Inline(), plan_only=True)
        looked, _Ranged.given = _Ranged.given, 0
        made_whole = list(
            bnfuse.optimize_many(address, tmp_path / "out", executor=Inline(), verify=False, bench=False)
        )
        server.shutdown()
    assert whole > 40_000_000
    assert made.failure is None, made.failure
    assert made.report is not None
    local = bnfuse.inspect(path)
    assert made.report.plan == local.plan
    assert made.report.operators_after == local.operators_after
    assert made.report.input.total_bytes == local.input.total_bytes == whole
    assert made.report.input.sha256 == ""
    assert looked < 5_000_000
    assert made_whole[0].failure is None, made_whole[0].failure
    assert _Ranged.given >= whole


def test_a_server_without_ranges_gives_a_large_model_as_a_whole(web: tuple[str, Path]) -> None:
    address, folder = web
    path = large(folder, beside=False)
    (made,) = bnfuse.optimize_many(f"{address}/{path.name}", executor=Inline(), plan_only=True)
    local = bnfuse.inspect(path)
    assert made.report is not None
    assert (made.report.plan, made.report.input.sha256) == (local.plan, local.input.sha256)


def test_the_web_takes_no_results(web: tuple[str, Path]) -> None:
    address, folder = web
    save(folder / "net.onnx")
    done = call("optimize", f"{address}/net.onnx", "--no-bench")
    assert done.exit_code == 2
    assert "nothing can be written to http:// addresses: give an --output-dir" in done.stderr


def test_a_bucket_is_taken_through_and_results_go_beside_the_models(bucket: Any, tmp_path: Path) -> None:
    """Weights in files of their own, too; a second run skips what is unchanged in the store."""
    for name in ("a.onnx", "deep/b.onnx"):
        bucket.upload_file(str(save(tmp_path / name)), "zoo", f"run/{name}")
    model = external(tmp_path)
    for path in (model, model.with_name("ext.weights")):
        bucket.upload_file(str(path), "zoo", f"run/{path.name}")
    bucket.put_object(Bucket="zoo", Key="run/broken.onnx", Body=b"garbage")
    words = ("optimize", "s3://zoo/run", "-r", "--resume", "--json", "-j", "1", "--no-bench")
    fresh()
    done = call(*words, "--verify-time", "0.2")
    document = json.loads(done.stdout)
    assert_many_fit(document)
    ends = {one["model"]: (one["exit_code"], one["resumed"]) for one in document["reports"]}
    assert ends == {
        "s3://zoo/run/a.onnx": (0, False),
        "s3://zoo/run/broken.onnx": (3, False),
        "s3://zoo/run/deep/b.onnx": (0, False),
        "s3://zoo/run/ext.onnx": (0, False),
    }
    assert [each for each in keys(bucket, "run/") if ".fused." in each and each.endswith(".onnx")] == [
        *("a.fused.onnx", "deep/b.fused.onnx", "ext.fused.onnx")
    ]
    home = tmp_path / "back"
    home.mkdir()
    for key in keys(bucket, "run/"):
        if "ext" in key:
            bucket.download_file("zoo", f"run/{key}", str(home / key))
    before, after = outputs_of(model, X), outputs_of(home / "ext.fused.onnx", X)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.ptp(before))

    bucket.upload_file(str(save(tmp_path / "a.onnx", relu_first=True)), "zoo", "run/a.onnx")
    bucket.put_object(Bucket="zoo", Key="run/deep/b.fused.onnx", Body=b"another's")
    fresh()
    again = json.loads(call(*words, "--verify-time", "0.2", "--force").stdout)
    skipped = {one["model"].rpartition("/")[2]: one["resumed"] for one in again["reports"]}
    assert skipped == {"a.onnx": False, "broken.onnx": False, "b.onnx": False, "ext.onnx": True}


def test_a_result_goes_to_another_address_and_is_not_overwritten(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(save(tmp_path / "a.onnx")), "zoo", "one/a.onnx")
    words = ("optimize", "s3://zoo/one/*.onnx", "--output-dir", "s3://zoo/made", "--no-bench", "--no-verify")
    fresh()
    assert call(*words).exit_code == 0
    assert keys(bucket, "made/") == ["a.fused.onnx"]
    fresh()
    done = call(*words)
    assert done.exit_code == 2
    assert "'s3://zoo/made/a.fused.onnx' exists: choose another output or overwrite it" in done.stderr
    fresh()
    assert call(*words, "--force").exit_code == 0
    done = call("optimize", tmp_path / "a.onnx", "-o", "s3://zoo/made/x.onnx", "--no-bench", "--no-verify")
    assert done.exit_code == 0, done.stderr
    assert keys(bucket, "made/") == ["a.fused.onnx", "x.onnx"]


def test_nothing_is_written_where_equality_is_not_shown(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(save(tmp_path / "a.onnx")), "zoo", "two/a.onnx")
    fresh()
    done = call("optimize", "s3://zoo/two/a.onnx", "--shape", "x=1,3,1", "--no-bench")
    assert done.exit_code in (2, 4)
    assert keys(bucket, "two/") == ["a.onnx"]
