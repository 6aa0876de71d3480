"""Bounds what a server can do to a request: a deadline for the whole answer, and a size.

An HTTP client's timeout is per read: a server that sends a byte a second is waited for as long as it likes, in the headers as in the body.
Requests are therefore coroutines of one loop in a thread of its own, where a deadline ends all of a request: name look-up, connection,
redirects, headers and body. The body is counted while it arrives, after decompression and whatever the status. An event hook does this,
because the client itself reads the bodies of errors. A file of many replies, one a line, is bounded by line, and arrives in parts that have
a deadline each.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from threading import Thread
from typing import Any, Final, TypeVar

from httpx2 import AsyncByteStream, HTTPError, Request, Response
from openai import APIConnectionError, APITimeoutError

from pipeline.generation.servers.reply import MalformedReply

T = TypeVar("T")

LARGEST_REPLY_BYTES: Final = 32 * 2**20
"""Largest accepted reply. One with 32,768 tokens and their log-probabilities has about 6 MB."""
ENCODINGS: Final = "gzip, deflate"
"""Compressions that are asked for, and that are read here, with a limit on what comes out of them."""
_ZLIB_OR_GZIP: Final = 47
_COMPRESSED: Final = {"gzip", "x-gzip", "deflate"}
_PIECE_BYTES: Final = 2**20
"""Most that is decompressed at once, and that is read of a file within a deadline."""


class _Counted(AsyncByteStream):
    """A body, decompressed, that ends in an error when it, or a line of it, is larger than `LARGEST_REPLY_BYTES`."""

    def __init__(self, arriving: AsyncByteStream, compressed: bool, by_line: bool) -> None:
        self._arriving = arriving
        self._decompressor = zlib.decompressobj(_ZLIB_OR_GZIP) if compressed else None
        self._by_line = by_line

    def _plain(self, piece: bytes) -> Iterator[bytes]:
        if self._decompressor is None:
            yield piece
            return
        while piece:
            try:
                yield self._decompressor.decompress(piece, _PIECE_BYTES)
            except zlib.error as error:
                raise MalformedReply(f"malformed response (not the compression that its header names: {error})") from error
            piece = self._decompressor.unconsumed_tail

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LARGEST_REPLY_BYTES
        async for piece in self._arriving:
            for plain in self._plain(piece):
                ends = plain.find(b"\n") if self._by_line else -1
                if left < (len(plain) if ends < 0 else ends):
                    what = "a line is larger" if self._by_line else "larger"
                    raise MalformedReply(f"malformed response ({what} than {LARGEST_REPLY_BYTES >> 20} MiB)")
                left = left - len(plain) if ends < 0 else LARGEST_REPLY_BYTES - (len(plain) - 1 - plain.rfind(b"\n"))
                yield plain

    async def aclose(self) -> None:
        await self._arriving.aclose()


async def bounded_body(response: Response) -> None:
    """Event hook of an HTTP client: the response's body is limited in size.

    Raises:
        MalformedReply: a compression that was not asked for.
    """
    _bound(response, by_line=False)


async def bounded_lines(response: Response) -> None:
    """Event hook of an HTTP client: each line of the response's body is limited in size; errors are, as a whole.

    Raises:
        MalformedReply: a compression that was not asked for.
    """
    _bound(response, by_line=response.is_success)


def _bound(response: Response, by_line: bool) -> None:
    coding = response.headers.pop("content-encoding", "identity").strip().lower()
    if coding not in {*_COMPRESSED, "identity", ""}:
        raise MalformedReply(f"malformed response (compressed with {coding[:40]!r}, asked for {ENCODINGS})")
    assert isinstance(response.stream, AsyncByteStream)
    response.stream = _Counted(response.stream, coding in _COMPRESSED, by_line)


def lines_of(
    open_file: Callable[[], AbstractAsyncContextManager[Any]], in_time: Callable[[Callable[[], Awaitable[Any]]], Any]
) -> Iterator[bytes]:
    """The lines of a file that a server sends; each part of about a MiB, or what is left, arrives within the deadline.

    `open_file` gives the client's streamed response, of a client with the hook `bounded_lines`.

    Raises:
        MalformedReply: a line is too large.
        APIConnectionError: the connection broke.
    """
    manager = open_file()
    response = in_time(manager.__aenter__)
    try:
        arriving = aiter(response.iter_bytes())

        async def part() -> list[bytes]:
            pieces: list[bytes] = []
            try:
                while sum(map(len, pieces)) < _PIECE_BYTES and (piece := await anext(arriving, None)) is not None:
                    pieces.append(piece)
            except HTTPError as error:
                raise APIConnectionError(request=response.http_request) from error
            return pieces

        begun: list[bytes] = []
        while pieces := in_time(part):
            first, *others = b"".join(pieces).split(b"\n")
            begun.append(first)
            if others:
                yield b"".join(begun)
                yield from others[:-1]
                begun = [others[-1]]
        yield b"".join(begun)
    finally:
        in_time(partial(manager.__aexit__, None, None, None))


@contextmanager
def deadlines(seconds: float, url: str) -> Iterator[Callable[[Callable[[], Awaitable[T]]], T]]:
    """A function that makes a request, from any thread, and waits for its whole answer for at most `seconds`.

    It raises MalformedReply for an answer that is too large, APITimeoutError after the deadline, and what the request raises.
    """
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="requests", daemon=True)
    thread.start()

    async def timed(request: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await request()
        except TimeoutError:
            late = APITimeoutError(Request("POST", url))
            late.message = f"no complete answer within engine.request_seconds {seconds:g}"
            late.args = (late.message,)
            raise late from None
        except APIConnectionError as error:  # the client wraps what its hooks raise
            if isinstance(error.__cause__, MalformedReply):
                raise error.__cause__ from None
            raise

    try:
        yield lambda request: asyncio.run_coroutine_threadsafe(timed(request), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
