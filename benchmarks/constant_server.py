"""A bare aiohttp server that answers every request with the same bytes: the ceiling of HTTP.

It reads the body and answers; no route, no worker, no metrics. Prints {"port": N}, serves until
standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

_ANSWER = b'{"message": "constant"}'


async def handle(request: web.BaseRequest) -> web.Response:
    await request.read()
    return web.Response(body=_ANSWER, content_type="application/json")


async def serve() -> None:
    loop = asyncio.get_running_loop()
    parent_left = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_left.set)
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await parent_left.wait()
    await runner.cleanup()


def main() -> int:
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.run_until_complete(serve())
    loop.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
