"""Enums of descriptor sets with their unknown values kept: Go shows their numbers, others put them aside for proto2."""

import uuid
from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

NONE = f"_{uuid.uuid4().hex}"  # the name of 0 where an enum has none; nobody outside can know it
_PACKAGE = f"mixer_{uuid.uuid4().hex}"


def opened(files: Mapping[str, FileDescriptorProto], pool: DescriptorPool) -> dict[str, FileDescriptorProto]:
    """The files, with each closed enum that a field has replaced by an open one of the same names and numbers, in a
    file of its own. `pool`: of the files. An open enum has to begin with 0, so `NONE` may stand there."""
    result: dict[str, FileDescriptorProto] = {}
    made: dict[str, str] = {}  # the file of an enum by its full name
    for file in files.values():
        result[file.name] = changed = FileDescriptorProto()
        changed.CopyFrom(file)
        for name, message in messages_in(changed):
            fields = pool.FindMessageTypeByName(name).fields_by_number
            for field in message.field:
                enum = fields[field.number].enum_type
                if enum is None or not enum.is_closed:
                    continue
                if enum.full_name not in made:
                    own = _file(enum, len(made))
                    made[enum.full_name], result[own.name] = own.name, own
                own = result[made[enum.full_name]]
                field.type_name = f".{own.package}.{enum.name}"
                if own.name not in changed.dependency:
                    changed.dependency.append(own.name)
    return result


def _file(enum: EnumDescriptor, number: int) -> FileDescriptorProto:
    plain = EnumDescriptorProto()
    enum.CopyToProto(plain)
    own = EnumDescriptorProto(name=enum.name)
    own.options.allow_alias = plain.options.allow_alias
    values = [EnumValueDescriptorProto(name=value.name, number=value.number) for value in plain.value]
    if all(value.number for value in values):
        values.append(EnumValueDescriptorProto(name=NONE, number=0))
    own.value.extend(sorted(values, key=lambda value: value.number != 0))
    package = f"{_PACKAGE}.e{number}"
    return FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3", enum_type=[own])


def messages_in(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Every message by its full name, those in messages after these."""
    prefix = f"{file.package}." if file.package else ""
    waiting = [(prefix + message.name, message) for message in file.message_type]
    while waiting:
        name, message = waiting.pop()
        yield name, message
        waiting += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]
