"""Bodies of gRPC calls as JSON, by a set of protobuf descriptors (OPA's Envoy plugin, `proto-descriptor`).

Such a set is the file that `protoc --include_imports --descriptor_set_out=…` or `buf build -o ….binpb` writes.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import (
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from mixer.authz.enums import NONE, messages_in, opened
from mixer.authz.url import BadRequestError
from mixer.errors import LoadError, Problem

_FRAME_HEADER = 5  # whether it is compressed, and the message's length in four bytes
_MOST_METHODS = 1024  # remembered; their names come from requests, so there is no end of them
_LARGEST_INTEGER = 2**64 - 1  # that JSON of ours can hold as one
_MOST_ANYS = 100  # in one another; each is parsed anew
_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


class Messages:
    """The first message of calls to the methods in a descriptor set."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        """Raises `ValueError` for a set that is not complete in itself."""
        files = {file.name: _without_extensions(file) for file in descriptors.file}
        files = opened(files, _pool(files))
        self._pool = _pool(files)
        self._unmapped = _pool({name: _without_maps(file) for name, file in files.items()})
        self._request = lru_cache(_MOST_METHODS)(self._find)

    @classmethod
    def load(cls, path: Path) -> "Messages":
        """Raises `LoadError`."""
        try:
            return cls(FileDescriptorSet.FromString(path.read_bytes()))
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except DecodeError:
            problem = (
                "is no protobuf descriptor set; write one with protoc --include_imports --descriptor_set_out"
            )
        except ValueError as error:
            problem = f"is not a complete descriptor set: {error}"
        raise LoadError([Problem(str(path), "", problem)])

    def parse(self, frames: bytes, path: list[str]) -> tuple[Any, bool]:
        """The first message as JSON, and whether it was cut off. The message is None where its method is unknown or a
        client's stream, and where it is compressed. Raises `BadRequestError` for what is no call or no such message.
        """
        if len(path) != 2:
            raise BadRequestError("the path of a gRPC call is /service/method")
        if len(frames) < _FRAME_HEADER:
            raise BadRequestError("the gRPC body is shorter than the head of a message")
        if frames[0] != 0:
            return None, False
        end = _FRAME_HEADER + int.from_bytes(frames[1:_FRAME_HEADER])
        if end > len(frames):
            return None, True
        if (request := self._request(*path)) is None:
            return None, False
        try:
            message = self._parsed(request, frames[_FRAME_HEADER:end])
            self._refuse_what_go_does(message)
            shown = json_format.MessageToDict(message, descriptor_pool=self._pool)
        except BadRequestError:
            raise
        except (DecodeError, json_format.Error, ValueError, TypeError, KeyError, RecursionError):
            raise BadRequestError("the gRPC message is not of its method's type") from None
        if not message.IsInitialized():
            raise BadRequestError("the gRPC message lacks a required field")
        return _as_numbers(shown), False

    def _parsed(self, request: type[Message], sent: bytes) -> Message:
        """The message without the fields that it does not know. Those are left out before maps are made: Python's
        protobuf drops a map's whole entry for one in it, where the plugin and what is behind Envoy see the entry."""
        name = request.DESCRIPTOR.full_name
        unmapped = message_factory.GetMessageClass(self._unmapped.FindMessageTypeByName(name)).FromString(
            sent
        )
        unmapped.DiscardUnknownFields()
        return request.FromString(unmapped.SerializePartialToString())

    def _refuse_what_go_does(self, message: Message, levels: int = 0) -> None:
        """Values of no kind, masks of what are no fields and text that is no UTF-8, which Go's protojson does not write
        and Python's does. What is in an Any is looked at too, and its unknown fields are left out."""
        if message.DESCRIPTOR.full_name == "google.protobuf.Value" and message.WhichOneof("kind") is None:
            raise BadRequestError("the gRPC message has a Value of no kind")
        if message.DESCRIPTOR.full_name == "google.protobuf.Any":
            self._unpack(message, levels)
        for field, value in message.ListFields():
            if field.full_name == "google.protobuf.FieldMask.paths" and not all(map(_NAMES.fullmatch, value)):
                raise BadRequestError("the gRPC message has a FieldMask with what names no field")
            entry = (
                field.message_type
                if field.message_type and field.message_type.GetOptions().map_entry
                else None
            )
            items = value.values() if entry else value if field.is_repeated else (value,)
            kind = entry.fields_by_name["value"] if entry else field
            if kind.message_type is not None:
                for item in items:
                    self._refuse_what_go_does(item, levels)
            texts = [*value.keys(), *items] if entry else items
            if (
                kind.type != kind.TYPE_BYTES
                and kind.message_type is None
                and any(isinstance(t, bytes) for t in texts)
            ):
                raise BadRequestError("the gRPC message has text that is no UTF-8")

    def _unpack(self, message: Any, levels: int) -> None:
        if levels == _MOST_ANYS:
            raise BadRequestError(f"the gRPC message has more than {_MOST_ANYS} levels of Any")
        if not message.type_url:
            return
        kind = self._pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
        inner = self._parsed(message_factory.GetMessageClass(kind), message.value)
        self._refuse_what_go_does(inner, levels + 1)
        message.value = inner.SerializePartialToString()

    def _find(self, service: str, method: str) -> type[Message] | None:
        try:
            found = self._pool.FindServiceByName(service).methods_by_name.get(method)
        except KeyError:
            return None
        if found is None or found.client_streaming:
            return None
        return message_factory.GetMessageClass(found.input_type)


def _pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    pool = DescriptorPool()
    added: set[str] = set()
    for file in files.values():
        _add(pool, file, files, added, ())
    return pool


def _add(
    pool: DescriptorPool,
    file: FileDescriptorProto,
    files: Mapping[str, FileDescriptorProto],
    added: set[str],
    importing: tuple[str, ...],
) -> None:
    """Imports go first, in whatever order the set has them."""
    if file.name in added:
        return
    if file.name in importing:
        raise ValueError(f"{file.name} imports itself")
    for name in file.dependency:
        if name not in files:
            raise ValueError(f"{file.name} imports {name}, which is not in it; use protoc --include_imports")
        _add(pool, files[name], files, added, (*importing, file.name))
    try:
        pool.Add(file)
        pool.FindFileByName(file.name)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{file.name}: {error}") from error
    added.add(file.name)


def _without_extensions(file: FileDescriptorProto) -> FileDescriptorProto:
    """The plugin does not know the set's extensions, so fields of theirs are not shown."""
    plain = FileDescriptorProto()
    plain.CopyFrom(file)
    del plain.extension[:]
    for _, message in messages_in(plain):
        del message.extension[:]
    return plain


def _without_maps(file: FileDescriptorProto) -> FileDescriptorProto:
    """Maps as what they are on the wire: lists of messages, each before its length whatever the file's encoding."""
    plain = FileDescriptorProto()
    plain.CopyFrom(file)
    for _, message in messages_in(plain):
        maps = {entry.name for entry in message.nested_type if entry.options.map_entry}
        for field in message.field if plain.syntax == "editions" else ():
            if field.type == FieldDescriptorProto.TYPE_MESSAGE and field.type_name.rpartition(".")[2] in maps:
                field.options.features.message_encoding = FeatureSet.LENGTH_PREFIXED
        message.options.ClearField("map_entry")
    return plain


def _as_numbers(value: Any) -> Any:
    """Numbers that are whole but too large for an integer as the floating-point numbers that they were; 0 of an enum
    that has no name for it as 0."""
    if isinstance(value, dict):
        return {key: _as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_numbers(item) for item in value]
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return float(value)
    return 0 if value == NONE else value
