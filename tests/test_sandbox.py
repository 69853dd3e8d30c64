"""The sandbox: whatever a file does to its parser costs that file and no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.sandbox import Limits, Sandbox, _Child, parse_inputs
from hiperrag.parsing.sources import discover
from hiperrag.records import Document

SHARED = Path(os.environ.get("HIPERRAG_SHARED", Path(__file__).resolve().parents[2] / "shared"))

# Does what the file says. A file's first line is code to run; the document's title is its process id.
HOSTILE_PARSER = """
import ctypes, os, signal, sys, time
from hiperrag.parsing.errors import ParseError
from hiperrag.records import Block, Document

def parse(data, source, doc_id, options, on_page):
    scope = {"path": source, "options": options, "on_page": on_page}
    exec(data.decode(), globals(), scope)
    block = Block(1, "paragraph", (0.0, 0.5, 1.0, 2.0), scope.get("text", "text"))
    return Document(doc_id, source, str(os.getpid()), [], 1, "hostile", "1", 1.0, [block])
"""

Parse = Callable[..., tuple[list[Document], dict[str, str]]]


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parse files with the given contents, in order; documents and {file: error}."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_parser.py").write_text(HOSTILE_PARSER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / "files"
    folder.mkdir()

    def run(
        *codes: str, seconds: float = 20, megabytes: int = 1024, page_seconds: float = 20
    ) -> tuple[list[Document], dict[str, str]]:
        for i, code in enumerate(codes):
            (folder / f"{i}.pdf").write_text(code)
        found = discover([str(folder)]).inputs
        done: list[int] = []
        documents, quarantined = parse_inputs(
            found, Limits(seconds, page_seconds, megabytes), on_done=done.append, parser="hostile_parser:parse"
        )
        assert done == list(range(1, len(codes) + 1))
        assert len(documents) + len(quarantined) == len(codes)
        assert all(entry.stage == "parse" and entry.message for entry in quarantined)
        return documents, {Path(entry.source).name: entry.error for entry in quarantined}

    return run


SEGFAULT = "ctypes.string_at(0)"
ONCE = "first = not os.path.exists(path + '.seen'); open(path + '.seen', 'w').close()\n"


def test_one_child_serves_many_files(parse: Parse) -> None:
    documents, quarantined = parse("pass", "text = 'é\\ud800\\n'", "raise ParseError('no_text', 'blank')", "pass")
    assert quarantined == {"2.pdf": "no_text"}
    assert len({document.title for document in documents}) == 1
    assert documents[1].blocks[0].text == "é?\n"
    assert documents[1].blocks[0].bbox == (0.0, 0.5, 1.0, 2.0)
    assert documents[0].doc_id == documents[2].doc_id != documents[1].doc_id
    assert len(documents[0].doc_id) == 32


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (SEGFAULT, "crashed"),
        ("os._exit(0)", "crashed"),
        ("os.abort()", "crashed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed"),
        ("raise KeyError('x')", "damaged"),
        ("import no_such_module", "unavailable"),
        ("raise RuntimeError('code=2: malloc (16 bytes) failed')", "memory"),
        ("raise SystemExit(3)", "crashed"),
        ("text = [' ' * 2**26] * 100; text = ''.join(text)", "memory"),
        ("bytearray(2**40)", "memory"),
        ("hog = []\nwhile True: hog.append(b'x' * 10**6)", "memory"),
        ("hog = []\nwhile True: hog.append(ctypes.create_string_buffer(2**20))", "memory"),
    ],
)
def test_a_bad_file_is_quarantined_alone(parse: Parse, code: str, error: str) -> None:
    documents, quarantined = parse("pass", code, "pass", megabytes=512)
    assert quarantined == {"1.pdf": error}
    assert len(documents) == 2


def test_memory_that_c_code_fails_to_get(parse: Parse) -> None:
    """Dies of a null pointer after its allocations came near the limit: memory, not a crash of its own."""
    hog = """
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        while (block := libc.malloc(ctypes.c_size_t(2**22))):
            ctypes.memset(block, 1, 2**22)
            time.sleep(0.002)
        ctypes.memset(0, 1, 1)
    """
    _, quarantined = parse(textwrap.dedent(hog), "pass", megabytes=512)
    assert quarantined == {"0.pdf": "memory"}


@pytest.mark.parametrize(
    "code", ["while True: pass", "time.sleep(1000)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"]
)
def test_a_hanging_file_ends_at_its_time_limit(parse: Parse, code: str) -> None:
    started = time.monotonic()
    documents, quarantined = parse("pass", code, "pass", seconds=1)
    assert quarantined == {"1.pdf": "timeout"}
    assert len(documents) == 2
    assert time.monotonic() - started < 15


PAGES = """
text = ""
for page in (1, 2, 3):
    on_page(page, {recognise})
    if page not in options.skip:
        if page == 2: {hostile}
        text += f"page {{page}}; "
on_page(0, 0)
text += str(options.skip)
"""


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        ("time.sleep(1000)", "page 2: parsing took longer than the time limit"),
        (SEGFAULT, "page 2: the parser process was ended by SIGSEGV"),
        ("bytearray(2**40)", "parsing needs more memory than the limit"),
    ],
)
def test_a_page_that_costs_the_child_its_life_is_left_out(parse: Parse, hostile: str, why: str) -> None:
    code = PAGES.format(recognise=0, hostile=hostile)
    documents, quarantined = parse(code, "pass", page_seconds=1, megabytes=512)
    assert not quarantined
    assert documents[0].blocks[0].text.startswith("page 1; page 3; {2: '")
    assert why in documents[0].blocks[0].text


def test_recognition_is_on_the_clock_of_its_page_alone(parse: Parse) -> None:
    code = PAGES.format(recognise=1, hostile="pass") + "\n"
    slow = code.replace("text += f", "time.sleep(0.5); text += f")
    documents, quarantined = parse(slow, slow.replace("on_page(page, 1)", "on_page(page, 0)"), seconds=1)
    assert documents[0].blocks[0].text == "page 1; page 2; page 3; {}"
    assert quarantined == {"1.pdf": "timeout"}


def test_pages_that_die_together_are_tried_one_by_one(parse: Parse) -> None:
    code = """
text = ""
for start in range(1, 7, options.batch):
    on_page(start, options.batch)
    together = sorted(set(range(start, min(7, start + options.batch))) - options.skip.keys())
    if 5 in together: os.abort()
    text += f"{together}"
on_page(0, 0)
"""
    documents, quarantined = parse(code)
    assert not quarantined
    assert documents[0].blocks[0].text == "[1][2][3][4][][6]"


def test_a_file_of_many_hostile_pages_is_given_up(parse: Parse) -> None:
    code = "for page in range(1, 50):\n  on_page(page, 0)\n  if page not in options.skip: os.abort()"
    _, quarantined = parse(code)
    assert quarantined == {"0.pdf": "crashed"}


def test_a_file_is_judged_only_in_a_fresh_child(parse: Parse) -> None:
    """A crash or lack of memory that does not repeat is held against nobody."""
    hog = "import builtins; builtins.hog = bytearray(300 << 20)"
    needs_room = "bytearray(300 << 20)"
    codes = [ONCE + "if first: " + SEGFAULT, ONCE + "if first: os.kill(os.getpid(), signal.SIGKILL)", hog, needs_room]
    documents, quarantined = parse(*codes, megabytes=512)
    assert quarantined == {}
    assert len(documents) == 4


def test_output_of_the_parser_does_not_reach_the_protocol(parse: Parse, capfd: pytest.CaptureFixture[str]) -> None:
    noise = "print('x' * 100000, flush=True); os.write(1, b'y' * 100000); os.write(2, b'z' * 100000); sys.stdin.read()"
    documents, quarantined = parse(noise, "pass")
    assert (len(documents), quarantined) == (2, {})
    assert capfd.readouterr() == ("", "")


def test_killed_from_outside_at_many_moments(parse: Parse, tmp_path: Path) -> None:
    """kill -9 of the child loses nothing as long as no file is hit twice."""
    stop = threading.Event()
    killed = 0

    def killer() -> None:
        nonlocal killed
        seen_at_kill = 0
        while not stop.wait(0.07):
            seen = len(list(tmp_path.glob("files/*.seen")))
            if seen >= seen_at_kill + 2:
                for child in _children(os.getpid()):
                    os.kill(child, signal.SIGKILL)
                seen_at_kill = len(list(tmp_path.glob("files/*.seen")))  # listing children takes its time
                killed += 1

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        documents, quarantined = parse(*[ONCE + "time.sleep(0.1)"] * 16)
    finally:
        stop.set()
        thread.join()
    assert (len(documents), quarantined) == (16, {})
    assert killed >= 3


def test_killed_from_outside_while_it_starts(parse: Parse, tmp_path: Path) -> None:
    parser = tmp_path / "modules" / "hostile_parser.py"
    starts = f"""
        import os, signal
        with open({str(tmp_path / "starts")!r}, "a+") as log:
            log.write("x")
            log.seek(0)
            if len(log.read()) < 3:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    parser.write_text(textwrap.dedent(starts) + parser.read_text())
    documents, quarantined = parse("pass", "pass")
    assert (len(documents), quarantined) == (2, {})
    assert (tmp_path / "starts").read_text() == "xxx"


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "sandbox_child" in line]


def test_no_process_is_left_behind(parse: Parse) -> None:
    parse("pass", SEGFAULT, "time.sleep(9)", seconds=1)
    assert _children(os.getpid()) == []


@pytest.mark.usefixtures("parse")
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_text(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(1000)")
    program = f"""
        from hiperrag.parsing.sources import discover
        from hiperrag.parsing.sandbox import parse_inputs
        parse_inputs(discover([{str(tmp_path / "x.pdf")!r}]).inputs, parser="hostile_parser:parse")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    try:
        _wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    finally:
        parent.kill()
        parent.wait()
    child = int((tmp_path / "pid").read_text())
    _wait_for(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_module_in_the_working_directory_does_not_shadow_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parse: Parse
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert len(parse("pass")[0]) == 1


def test_a_parser_that_cannot_start_is_an_error_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="no_such_module"):
        parse_inputs(discover([str(tmp_path)]).inputs, parser="no_such_module:parse")


def test_a_child_is_replaced_after_many_files(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiperrag.parsing.sandbox._FILES_PER_CHILD", 2)
    documents, _ = parse("pass", "pass", "pass", "pass", "pass")
    assert [document.title for document in documents] == sorted((d.title for d in documents), key=int)
    assert len({document.title for document in documents}) == 3


def test_a_reply_that_is_not_ours_is_a_crash(parse: Parse) -> None:
    """A child taken over by a hostile file can answer anything; the file is lost, nothing else."""
    forge = "for fd in range(3, 20):\n  try: os.write(fd, (5).to_bytes(8, 'big') + b'[1, 2')\n  except OSError: pass"
    documents, quarantined = parse("pass", forge, "pass")
    assert quarantined == {"1.pdf": "crashed"}
    assert len(documents) == 2


def test_a_second_answer_is_not_taken_for_the_next_file(parse: Parse) -> None:
    forge = """
        answer = b'{"id": 1, "error": "forged", "message": "m"}'
        for fd in range(3, 20):
            try: os.write(fd, len(answer).to_bytes(8, "big") + answer)
            except OSError: pass
        text = "x" * 10**6
    """
    documents, quarantined = parse(textwrap.dedent(forge), "pass", "pass")
    assert quarantined == {"0.pdf": "forged"}
    assert [document.source[-5:] for document in documents] == ["1.pdf", "2.pdf"]


def test_file_too_large_or_gone(tmp_path: Path) -> None:
    for name in ("large.pdf", "gone.pdf"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    gone, large = discover([str(tmp_path)]).inputs
    (tmp_path / "gone.pdf").unlink()
    with Sandbox(Limits(max_bytes=999)) as sandbox:
        for item, error in ((large, "too_large"), (gone, "unreadable")):
            with pytest.raises(ParseError) as caught:
                sandbox.parse(item)
            assert caught.value.error == error


def test_rows_start_no_child_and_bad_ones_are_quarantined_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Child, "__init__", lambda *_: pytest.fail("a child was started"))
    rows = [json.dumps({"_id": str(i), "text": f"text {i}"}) for i in range(5)]
    rows[1], rows[3] = "{", json.dumps({"_id": "3", "text": 5})
    (tmp_path / "r.jsonl").write_text("\n".join(rows))
    documents, quarantined = parse_inputs(discover([str(tmp_path)], rows_per_input=2).inputs)
    assert [document.source for document in documents] == ["0", "2", "4"]
    assert [(entry.source, entry.error) for entry in quarantined] == [
        (f"{tmp_path}/r.jsonl:2", "bad_row"),
        (f"{tmp_path}/r.jsonl:4", "bad_row"),
    ]


def test_rows_that_vanish_are_quarantined_each(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "a"}\n' * 3)
    found = discover([str(tmp_path)]).inputs
    (tmp_path / "r.jsonl").unlink()
    documents, quarantined = parse_inputs(found)
    assert documents == []
    assert [entry.error for entry in quarantined] == ["unreadable"] * 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="no development data (HIPERRAG_SHARED)")
def test_every_malformed_pdf_is_parsed_or_quarantined() -> None:
    folder = SHARED / "data" / "pdfs" / "malformed"
    found = discover([str(folder)])
    documents, quarantined = parse_inputs(found.inputs, Limits(seconds=30))
    sources = [document.source for document in documents] + [entry.source for entry in quarantined]
    assert sorted(sources) == sorted(map(str, folder.glob("*.pdf")))
    reasons = {Path(entry.source).name: entry.error for entry in quarantined}
    assert reasons["pdfminersix__aes-128.pdf"] == "encrypted"
    assert reasons["pdfplumber__empty.pdf"] == "empty"
    assert not {"timeout", "crashed", "memory"} & set(reasons.values())
