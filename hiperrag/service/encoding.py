"""One encoder for all requests: queries together, passages beside them, those that come again not encoded again."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from hiperrag.encoders import load_encoder
from hiperrag.encoders.base import Encoded, Encoder
from hiperrag.service.encoder_process import EncoderProcess, EncoderProcessLostError

PIECE_CHARACTERS = 1000
"""Of passages that are encoded in one call."""
QUERIES_TOGETHER = 32
MOST_THREADS = 4
"""Of torch for one call: more hardly help with texts this short, and threads that wait for each other burn time."""
CACHE_BYTES = 64 << 20
MOST_SEEN = 1 << 16
"""Texts of which is known that they came once."""
Encode = Callable[[Sequence[str]], Encoded]
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Vectors:
    """One encoded text; see `Encoded`. Half precision is ample for token vectors of passages."""

    tokens: npt.NDArray[np.float32] | npt.NDArray[np.float16]
    pooled: npt.NDArray[np.float32]
    truncated: bool

    def in_half_precision(self) -> _Vectors:
        return dataclasses.replace(self, tokens=self.tokens.astype(np.float16))

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.pooled.nbytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """Texts to encode in one call, and who waits for them."""

    texts: Sequence[str]
    vectors: Future[list[_Vectors]] = dataclasses.field(default_factory=Future)


class SharedEncoder:
    """Implements `Encoder` for calls from many threads; two of its own do the work, so no query waits for passages.

    What comes while they work is taken together, and a lone call waits for nothing. Passages come from a
    cache of `cache_bytes` where they are there: answers are checked against sentences of passages, which come again.
    The sentences of an answer itself do not, so a text is kept from the second time on.
    """

    def __init__(
        self,
        encoder: Encoder,
        cache_bytes: int = CACHE_BYTES,
        queries: EncoderProcess | None = None,
        passages: EncoderProcess | None = None,
    ) -> None:
        """`queries`, `passages`: processes that take over once there is so much to do that some waits."""
        self.name, self.identity = encoder.name, encoder.identity
        self.dim, self.pooled_dim, self.max_tokens = encoder.dim, encoder.pooled_dim, encoder.max_tokens
        self.cached_bytes = 0
        self._cache: OrderedDict[str, _Vectors] = OrderedDict()
        self._seen: OrderedDict[int, None] = OrderedDict()
        """Hashes of texts that came lately and are not in the cache."""
        self._cache_bytes = cache_bytes
        self._cache_lock = threading.Lock()
        self._queries = _Desk(lambda task: len(task.texts), QUERIES_TOGETHER)
        self._passages = _Desk(lambda task: sum(map(len, task.texts)), PIECE_CHARACTERS)
        self._pressed = threading.Event()
        self._employ(encoder.encode_queries, self._queries, queries)
        self._employ(encoder.encode_passages, self._passages, passages)

    def _employ(self, encode: Encode, desk: _Desk, process: EncoderProcess | None) -> None:
        if process:
            encode = _Relieved(encode, process, desk, self._pressed).encode
        worker = threading.Thread(target=_work, args=(encode, desk), name="encoder", daemon=True)
        worker.start()
        weakref.finalize(self, _end, desk, worker, process)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """See `Encoder`."""
        tasks = [_Task(texts[start : start + QUERIES_TOGETHER]) for start in range(0, len(texts), QUERIES_TOGETHER)]
        self._queries.put(tasks)
        return self._joined([vectors for task in tasks for vectors in task.vectors.result()])

    def encode_passages(self, texts: Sequence[str]) -> Encoded:
        """See `Encoder`."""
        wanted = list(dict.fromkeys(texts))
        found = self._cached(wanted)
        tasks = [_Task(piece) for piece in _pieces([text for text in wanted if text not in found])]
        self._passages.put(tasks)
        for task in tasks:
            halved = [one.in_half_precision() for one in task.vectors.result()]
            fresh = dict(zip(task.texts, halved, strict=True))
            self._keep(fresh)
            found |= fresh
        return self._joined([found[text] for text in texts])

    def _cached(self, texts: Sequence[str]) -> dict[str, _Vectors]:
        with self._cache_lock:
            found = {text: self._cache[text] for text in texts if text in self._cache}
            for text in found:
                self._cache.move_to_end(text)
        return found

    def _keep(self, fresh: dict[str, _Vectors]) -> None:
        with self._cache_lock:
            for text, vectors in fresh.items():
                if hash(text) not in self._seen:
                    self._seen[hash(text)] = None
                    continue
                del self._seen[hash(text)]
                if text not in self._cache:
                    self.cached_bytes += vectors.nbytes
                self._cache[text] = vectors
            while len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
            while self.cached_bytes > self._cache_bytes:
                self.cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def _joined(self, vectors: Sequence[_Vectors]) -> Encoded:
        offsets = np.zeros(len(vectors) + 1, dtype=np.int64)
        np.cumsum([len(one.tokens) for one in vectors], out=offsets[1:])
        return Encoded(
            tokens=np.concatenate(
                [np.empty((0, self.dim), np.float32), *(one.tokens for one in vectors)], dtype=np.float32
            ),
            offsets=offsets,
            pooled=np.stack([one.pooled for one in vectors])
            if vectors
            else np.empty((0, self.pooled_dim), dtype=np.float32),
            truncated=np.array([one.truncated for one in vectors], dtype=np.bool_),
        )


class _Desk:
    """Where tasks wait for a thread, which takes as many at a time as fit into `room` by their `size`."""

    def __init__(self, size: Callable[[_Task], int], room: int) -> None:
        self._size, self._room = size, room
        self.waiting: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, tasks: Sequence[_Task]) -> None:
        with self._changed:
            self.waiting.extend(tasks)
            self._changed.notify()

    def take(self) -> list[_Task]:
        """What to encode next; nothing once the desk is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._closed)
            return _fitting(self.waiting, self._size, self._room)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class _Relieved:
    """Encodes here, and in the process once anything has had to wait; here again while that is started."""

    def __init__(self, encode: Encode, process: EncoderProcess, desk: _Desk, pressed: threading.Event) -> None:
        """`pressed` is set when something waits, be it of the other kind: all of it takes turns in this process."""
        self._encode, self._process, self._desk, self._pressed = encode, process, desk, pressed

    def encode(self, texts: Sequence[str]) -> Encoded:
        if self._desk.waiting:
            self._pressed.set()
        if self._pressed.is_set():
            self._process.start()
        if self._process.ready:
            try:
                return self._process.encode(texts)
            except EncoderProcessLostError:
                log.warning("a process that encodes was lost; it is started again")
        return self._encode(texts)


def _fitting(waiting: deque[_Task], size: Callable[[_Task], int], room: int) -> list[_Task]:
    """The first of those that wait, and those behind it that fit into what room it leaves; they wait no longer."""
    taken: list[_Task] = []
    while waiting and (not taken or size(waiting[0]) <= room):
        room -= size(waiting[0])
        taken.append(waiting.popleft())
    return taken


def _end(desk: _Desk, worker: threading.Thread, process: EncoderProcess | None) -> None:
    """Torch must not be at work when the interpreter ends."""
    desk.close()
    if worker is not threading.current_thread():
        worker.join()
    if process:
        process.end()


def _work(encode: Encode, desk: _Desk) -> None:
    while tasks := desk.take():
        if not _encode(encode, tasks):
            for task in tasks:  # one text that cannot be encoded is nothing to the others
                _encode(encode, [task], final=True)


def _encode(encode: Encode, tasks: Sequence[_Task], final: bool = False) -> bool:
    """Whether it could be done; when `final`, who waits hears why not."""
    texts = [text for task in tasks for text in task.texts]
    try:
        encoded = encode(texts)
        vectors = [
            # copies, so that one cached text does not keep the vectors of all
            _Vectors(tokens.copy(), encoded.pooled[number].copy(), bool(encoded.truncated[number]))
            for number, tokens in enumerate(encoded.token_arrays())
        ]
    except BaseException as error:
        if final:
            for task in tasks:
                task.vectors.set_exception(error)
        return False
    for task in tasks:
        task.vectors.set_result(vectors[: len(task.texts)])
        del vectors[: len(task.texts)]
    return True


def _pieces(texts: Sequence[str]) -> list[list[str]]:
    """The texts in order, in pieces of at most PIECE_CHARACTERS or of one text."""
    pieces: list[list[str]] = []
    room = 0
    for text in texts:
        if not pieces or len(text) > room:
            pieces.append([])
            room = PIECE_CHARACTERS
        pieces[-1].append(text)
        room -= len(text)
    return pieces


_shared: weakref.WeakValueDictionary[str, SharedEncoder] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def shared_encoder(spec: str, threads: int | None = None) -> SharedEncoder:
    """The encoder of a spec, loaded once for all collections and versions that use it; see `load_encoder`.

    `threads`: unless given, half the cores, and at most MOST_THREADS; the rest is for searching and sending.
    """
    threads = threads or max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
    with _loading:
        encoder = _shared.get(spec)
        if encoder is None:
            several = len(os.sched_getaffinity(0)) > 1
            encoder = _shared[spec] = SharedEncoder(
                load_encoder(spec, threads),
                queries=EncoderProcess("queries", spec, threads) if several else None,
                passages=EncoderProcess("passages", spec, threads) if several else None,
            )
            encoder.encode_queries(["the first run takes longer"])
        return encoder
