"""Cutting an ONNX file down to the nodes behind chosen values, with free batch and image sizes.

Exported detectors often have their input size baked into their last nodes. Without those nodes the network takes
any size; what they did is done outside. The file format is protocol buffers (onnx.proto3): each field is a key
(number and wire type) followed by its value, so fields can be kept, dropped and added without a library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_MODEL_GRAPH = 7
_NODE, _NAME, _INITIALIZER, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_TENSOR_NAME = 8
_FLOAT = 1


def cut(model: bytes, inputs: str, outputs: Sequence[str]) -> bytes:
    """The model with only the nodes that `outputs` need.

    `inputs` names its input, an image (batch, 3, height, width) of float32, whose batch, height and width become
    free. Raises ValueError where the bytes are no such model or a value is not in it.
    """
    fields = list(_fields(model))
    graph = b"".join(value for number, value in fields if number == _MODEL_GRAPH and isinstance(value, bytes))
    parts = [(number, value) for number, value in _fields(graph) if isinstance(value, bytes)]
    nodes = [value for number, value in parts if number == _NODE]
    kept, needed = _ancestors(nodes, outputs)
    if inputs not in needed:
        raise ValueError(f"the outputs do not depend on {inputs}")
    body = [_message(_NODE, node) for node in kept]
    body.append(_message(_NAME, b"cut"))
    body += [_message(_INITIALIZER, v) for n, v in parts if n == _INITIALIZER and _text(v, _TENSOR_NAME) in needed]
    body.append(_message(_INPUT, _tensor(inputs, ("batch", 3, "height", "width"))))
    body += [_message(_OUTPUT, _tensor(name)) for name in outputs]
    rest = (
        _message(number, value) if isinstance(value, bytes) else _varint(number << 3) + _varint(value)
        for number, value in fields
        if number != _MODEL_GRAPH
    )
    return b"".join(rest) + _message(_MODEL_GRAPH, b"".join(body))


def _ancestors(nodes: Sequence[bytes], outputs: Sequence[str]) -> tuple[list[bytes], set[str]]:
    """Nodes that the outputs need, in order, and the names of all values these nodes take."""
    makers = {_decoded(v): node for node in nodes for n, v in _fields(node) if n == _NODE_OUTPUT}
    if missing := [name for name in outputs if name not in makers]:
        raise ValueError(f"no node makes {missing[0]}")
    needed: set[str] = set()
    kept: set[int] = set()
    waiting = list(outputs)
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or id(node) in kept:
            continue
        kept.add(id(node))
        taken = [_decoded(value) for number, value in _fields(node) if number == _NODE_INPUT]
        needed.update(taken)
        waiting += taken
    return [node for node in nodes if id(node) in kept], needed


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field; fixed-size numbers, which no field used here has, are refused."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        if key & 7 == 0:
            value, position = _read_varint(message, position)
            yield key >> 3, value
        elif key & 7 == 2:
            length, position = _read_varint(message, position)
            if position + length > len(message):
                raise ValueError("not an ONNX model: a field is cut off")
            yield key >> 3, message[position : position + length]
            position += length
        elif key & 7 in (1, 5):
            position += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("not an ONNX model")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("not an ONNX model: a number is cut off")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _message(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _text(message: bytes, number: int) -> str:
    return next((_decoded(value) for found, value in _fields(message) if found == number), "")


def _decoded(value: bytes | int) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _tensor(name: str, shape: Sequence[str | int] = ()) -> bytes:
    """A ValueInfoProto of float32; no shape: any."""
    dimensions = b"".join(
        _message(1, _varint(1 << 3) + _varint(d) if isinstance(d, int) else _message(2, d.encode())) for d in shape
    )
    tensor = _varint(1 << 3) + _varint(_FLOAT) + (_message(2, dimensions) if shape else b"")
    return _message(1, name.encode()) + _message(2, _message(1, tensor))
