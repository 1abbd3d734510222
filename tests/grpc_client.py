"""A client of the gRPC services, by the names in their definitions. Needs the extra ``grpc``."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from flambeau.frontend.access import OpenAccess
from flambeau.frontend.grpc.messages import INFERENCE, MANAGEMENT, OPEN_INFERENCE, message, service
from flambeau.frontend.grpc.server import start_grpc

NAMES = {
    "inference": f"{INFERENCE}.InferenceAPIsService",
    "management": f"{MANAGEMENT}.ManagementAPIsService",
    "open": f"{OPEN_INFERENCE}.GRPCInferenceService",
}


def _settle() -> None:
    """Let gRPC start the thread and the descriptors that it keeps for as long as a process lives.

    Done while tests are collected: they must not count as left behind by whichever test is first.
    """

    async def serve_once() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
        # A failed attempt to listen makes gRPC keep two descriptors more.
        with contextlib.suppress(RuntimeError):
            second = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            second.add_insecure_port(f"127.0.0.1:{port}")
        await server.stop(None)

    grpc.aio.init_grpc_aio()
    asyncio.run(serve_once())


_settle()


class Client:
    """Calls methods by name; requests are given as keyword arguments."""

    def __init__(self, house, listeners) -> None:
        self.house = house
        self.listeners = listeners
        self.trailers: dict[str, str] = {}
        """The trailing metadata of the last call that gave one answer."""
        self.channels = {
            name.removeprefix("grpc_"): grpc.insecure_channel(url.partition("//")[2])
            for name, url in listeners.urls.items()
        }

    def call(self, which: str, method: str, *requests: dict, metadata=(), timeout=20.0, **fields):
        found = service(NAMES[which]).methods_by_name[method]
        channel = self.channels["management" if which == "management" else "inference"]
        kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        request = message(found.input_type.full_name)
        ask = kinds[found.client_streaming, found.server_streaming](
            f"/{NAMES[which]}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=message(found.output_type.full_name).FromString,
        )
        given = iter([request(**each) for each in requests]) if requests else request(**fields)
        if found.server_streaming:
            return list(ask(given, timeout=timeout, metadata=metadata))
        answer, call = ask.with_call(given, timeout=timeout, metadata=metadata)
        self.trailers = dict(call.trailing_metadata())
        return answer

    def refusal(self, *call, **fields) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as refused:
            self.call(*call, **fields)
        return refused.value.code(), refused.value.details()

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self.house.run(self.listeners.close())


def open_client(make_house, access=None, **settings) -> Client:
    """A client of a house's gRPC listeners; whoever opens it closes it."""
    ports = {"grpc_inference_port": 0, "grpc_management_port": 0}
    house = make_house(**ports, enable_grpc="true", access=access or OpenAccess(), **settings)
    return Client(house, house.run(start_grpc(house.services())))
