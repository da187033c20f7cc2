"""Models of other formats, and what is no model: what each is, and which export gives one that bnfuse reads.

Told by content where that tells it, by the name where content does not (protobuf has no magic number). A row
is one kind of thing; nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

_TORCH = "load it in PyTorch and export the model: torch.onnx.export(model, example, 'model.onnx')"
_TF2ONNX = "python -m tf2onnx.convert"
_WEB_PAGE = "is a web page, probably an error page saved in place of the model; download it again"
_ORIGINAL = "give the model that it was converted from, as .onnx or .keras"

# What a file that starts so is, and what to do about it. These are never a model of any format.
_NEVER_MODELS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`"),
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
)
# These could be models of formats that bnfuse knows: asked only when none accepts.
_OTHERS = (
    (b"\x1f\x8b", "is a gzip archive in another one; unpack it first"),
    (b"ORTM", "is an onnxruntime .ort file; give the .onnx it was made from"),
    (b"GGUF", "is a GGUF file, weights for llama.cpp without a graph; export the original model to ONNX"),
    (b"\x93NUMPY", "is a NumPy array"),
    (b"\x80\x02", f"is a Python pickle, perhaps a checkpoint of PyTorch; {_TORCH}"),
    (b"\x80\x04", f"is a Python pickle, perhaps a checkpoint of PyTorch; {_TORCH}"),
    (b"{", "looks like JSON, but is no architecture of a Keras model (model.to_json())"),
)
_TFLITE = (
    f"is a TensorFlow Lite model; {_ORIGINAL}, or convert it: {_TF2ONNX} --tflite FILE --output model.onnx"
)
_SAVED_MODEL = (
    f"is a TensorFlow SavedModel; save it from Keras as model.keras, or convert it: {_TF2ONNX} "
    "--saved-model FOLDER --output model.onnx"
)
_GRAPH = (
    f"is a frozen TensorFlow graph; convert it: {_TF2ONNX} --graphdef FILE --inputs NAME:0 --outputs NAME:0 "
    "--output model.onnx"
)
_SAFETENSORS = f"is a safetensors file, weights without a graph; {_TORCH}"
_OPENVINO = f"is an OpenVINO model (.xml with .bin); {_ORIGINAL}"
_CORE_ML = f"is a Core ML model; {_ORIGINAL}"
_EXPORTED = (
    "is a program of torch.export; load it (torch.export.load) and export it: torch.onnx.export(program)"
)


def never_a_model(head: bytes, path: Path) -> str:
    """What a file is that no format should look at; "" where one may. ``head`` are its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _NEVER_MODELS:
        if start.startswith(magic):
            return what
    if start.startswith((b"<?xml", b"<net ")):
        return _OPENVINO if b"<net" in start else "is an XML file, not a model"
    suffix = path.suffix.lower()
    if suffix == ".mlmodel" and head[:1] == b"\x08":  # as an ONNX file may begin, too
        return _CORE_ML
    if path.name == "saved_model.pb":
        return _SAVED_MODEL.replace("is a", "belongs to a", 1)
    return _GRAPH if suffix == ".pb" and head[:1] == b"\n" else ""


def another_format(head: bytes, path: Path) -> str:
    """What a file is that no format accepted, as far as it can be told; "" else."""
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return what
    if head[4:8] == b"TFL3":  # a flatbuffer carries its identifier behind a 4-byte offset
        return _TFLITE
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _SAFETENSORS
    return _OPENVINO if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file() else ""


def zip_archive(names: Collection[str]) -> str:
    """What a zip file with these members is, which is no Keras archive; "" if that is not known."""
    ends = {name.partition("/")[2] for name in names if "/" in name} | set(names)
    if ends & {"archive_format", "serialized_exported_program.json"}:
        return _EXPORTED
    if "data.pkl" in ends:
        script = "constants.pkl" in ends or any(end.startswith("code/") for end in ends)
        return f"is a {'TorchScript archive' if script else 'checkpoint of PyTorch'}; {_TORCH}"
    if any(name.startswith("Data/com.apple.CoreML/") for name in ends):
        return _CORE_ML
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive of arrays, not a model"
    return ""


def folder(names: Iterable[str]) -> str:
    """What a folder with these entries is, and what to do."""
    found = set(names)
    if found & {"saved_model.pb", "saved_model.pbtxt"}:
        return _SAVED_MODEL
    if "Manifest.json" in found and "Data" in found:
        return _CORE_ML
    if any(name.endswith((".safetensors", "pytorch_model.bin")) for name in found):
        return f"is a folder of weights without a graph; {_TORCH}"
    return "is a folder: give the model file itself"
