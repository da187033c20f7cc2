"""Models of other formats are told by what they are, with the export that helps: a sentence, exit code 3."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from bnfuse import formats
from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import ReadOptions
from tests.command import call

_TAIL = bytes(40)
_HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(4)
IR = b"<?xml version='1.0'?>\n<net name='m' version='11'>"
PICKLE = b"\x80\x02ctorch._utils\n"

# name, content, what it is, which export
FILES = [
    ("m.tflite", b"\x1c\x00\x00\x00TFL3" + _TAIL, "a TensorFlow Lite model", "tf2onnx.convert --tflite"),
    ("m.onnx", b"\x1c\x00\x00\x00TFL3" + _TAIL, "a TensorFlow Lite model", "tf2onnx.convert --tflite"),
    ("m.pth", PICKLE + _TAIL, "a Python pickle", "torch.onnx.export"),
    ("m.pkl", b"\x80\x04\x95" + _TAIL, "a Python pickle", "torch.onnx.export"),
    ("m.xml", IR, "an OpenVINO model", "was converted from"),
    ("m.xml", IR.partition(b"\n")[2], "an OpenVINO model", "was converted from"),
    ("m.pb", b"\x0a\x1e\x0a\x05input\x12\x0bPlaceholder" + _TAIL, "a frozen TensorFlow graph", "--graphdef"),
    ("saved_model.pb", b"\x08\x01\x12\x20" + _TAIL, "belongs to a TensorFlow SavedModel", "--saved-model"),
    ("m.mlmodel", b"\x08\x04\x12\x20" + _TAIL, "a Core ML model", "was converted from"),
    ("m.gguf", b"GGUF\x03\x00\x00\x00" + _TAIL, "a GGUF file", "export the original model to ONNX"),
    ("m.safetensors", SAFETENSORS, "weights without a graph", "torch.onnx.export"),
    ("m.ort", b"\x20\x00\x00\x00ORTM"[4:] + _TAIL, "an onnxruntime .ort file", "the .onnx it was made from"),
    ("m.xml", b"<?xml version='1.0'?><html>", "an XML file", ""),
]
# name, members, what it is, which export
ZIPS = [
    ("m.pt", ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "a TorchScript archive", "torch.onnx"),
    ("m.pth", ("archive/data.pkl", "archive/data/0"), "a checkpoint of PyTorch", "torch.onnx.export"),
    ("m.pt2", ("m/archive_format", "m/models/model.json"), "a program of torch.export", "torch.export.load"),
    ("m.pt2", ("serialized_exported_program.json",), "a program of torch.export", "torch.onnx.export"),
    ("a.npz", ("x.npy", "y.npy"), "a NumPy archive", ""),
    ("m.zip", ("m.mlpackage/Data/com.apple.CoreML/model.mlmodel",), "a Core ML model", "was converted from"),
    ("m.zip", ("words.txt",), "no Keras model", ""),
]
# files in it, what it is, which export
FOLDERS = [
    (("saved_model.pb", "variables/variables.index"), "a TensorFlow SavedModel", "--saved-model"),
    (("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"), "a Core ML model", "was converted from"),
    (("config.json", "model.safetensors"), "weights without a graph", "torch.onnx.export"),
    (("a.txt",), "is a folder: give the model file itself", ""),
    ((), "is a folder: give the model file itself", ""),
]


def refused(path: Path, *said: str) -> None:
    with pytest.raises(UnreadableModel) as raised:
        formats.detect(path).read(path, ReadOptions())
    sentence = str(raised.value)
    assert all(part in sentence for part in said), sentence
    assert path.name in sentence and "\n" not in sentence and len(sentence) < 300 + len(str(path))


@pytest.mark.parametrize(("name", "content", "what", "export"), FILES)
def test_files(tmp_path: Path, name: str, content: bytes, what: str, export: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, what, export)


@pytest.mark.parametrize(("name", "members", "what", "export"), ZIPS)
def test_zip_archives(tmp_path: Path, name: str, members: tuple[str, ...], what: str, export: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")
    refused(tmp_path / name, what, export)


@pytest.mark.parametrize(("files", "what", "export"), FOLDERS)
def test_folders(tmp_path: Path, files: tuple[str, ...], what: str, export: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    refused(folder, what, export)
    assert call("optimize", folder).exit_code == 3


def test_the_weights_of_an_openvino_model(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"\x01" * 64)
    (tmp_path / "m.xml").write_bytes(IR)
    refused(tmp_path / "m.bin", "an OpenVINO model")
    found = call("inspect", tmp_path / "m.bin")
    assert found.exit_code == 3 and "OpenVINO" in found.stderr


def test_a_name_alone_refuses_no_onnx_file(tmp_path: Path, model: Path) -> None:
    """What is in a file decides; Caffe2 called ONNX files .pb."""
    for name in ("m.pb", "m.bin", "m.tflite", "m.pt"):
        model.with_name(name).write_bytes(model.read_bytes())
        assert formats.detect(model.with_name(name)).name == "onnx"
