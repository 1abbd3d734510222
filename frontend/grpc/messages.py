"""The messages of the services, made from their compiled definitions.

They live in a pool of their own: a program that has other definitions of the same names, such as
the stubs of a client, can have both. No code is generated, so any protobuf from 4.22 on will do.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"


def _pool() -> Any:
    compiled = files(__package__).joinpath("protos/services.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of the message of that full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def service(name: str) -> Any:
    """The descriptor of the service of that full name."""
    return POOL.FindServiceByName(name)
