"""Pages as pictures: what a hostile PDF costs, and what is kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from hiperrag.parsing.inputs import Input
from hiperrag.records import Block
from hiperrag.service import rendering


@pytest.mark.slow
def test_page_that_takes_too_long_is_drawn_from_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "PROCESSOR_SECONDS", 1)
    path = tmp_path / "bomb.pdf"
    write_bomb(path)
    data = path.read_bytes()
    item = Input(str(path), "pdf", str(path), "", 0, 0, len(data), str(path.stat().st_mtime_ns))
    block = Block(1, "paragraph", (50, 50, 400, 100), "What was read <b>of it</b>")
    doc_id = hashlib.sha256(data).hexdigest()[:32]
    renderer = rendering.PageRenderer(workers=1, max_waiting=1)
    try:
        asked = rendering.PageRequest(doc_id, 1, 400, [item], [block], (500, 700))
        first = renderer.draw(asked)
        assert renderer.draw(asked) is first
        with pytest.raises(rendering.BusyError):
            renderer.draw(rendering.PageRequest(doc_id, 2, 400))
        picture = first.result(timeout=120)
        assert picture.reason == "too_costly"
        assert Image.open(io.BytesIO(picture.png)).size == (400, 560)
        assert renderer.draw(asked).done()
    finally:
        renderer.close()


def write_bomb(path: Path) -> None:
    """Forms that each draw the one before ten times: 10^9 lines to draw."""
    forms = [
        "<< /Type /XObject /Subtype /Form /BBox [0 0 500 700] /Length 21 >>\nstream\n0 0 m 400 600 l 9 w S\nendstream"
    ]
    for number in range(1, 10):
        content = " /F Do" * 10
        forms.append(
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 500 700] /Resources << /XObject << /F {3 + number} 0 R >> >> "
            f"/Length {len(content)} >>\nstream\n{content}\nendstream"
        )
    content = "/F Do"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 500 700] /Contents {len(forms) + 4} 0 R "
        f"/Resources << /XObject << /F {len(forms) + 3} 0 R >> >> >>",
        *forms,
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
    ]
    body = "".join(f"{number} 0 obj\n{one}\nendobj\n" for number, one in enumerate(objects, start=1))
    path.write_text(f"%PDF-1.4\n{body}trailer << /Root 1 0 R /Size {len(objects) + 1} >>\n%%EOF\n")


def test_pictures_kept_are_bounded_in_bytes():
    cache = rendering.PictureCache(max_bytes=100)
    asked = [rendering.PageRequest("d", page, 400, blocks=[]) for page in range(4)]
    for one in asked[:3]:
        cache.put(one, rendering.Picture(b"x" * 40, ""))
        assert cache.get(asked[0]) or one is asked[2]
    assert cache.n_bytes == 80
    assert cache.get(asked[1]) is None
    cache.put(asked[3], rendering.Picture(b"x" * 101, ""))
    assert cache.n_bytes == 0
    assert cache.get(asked[3]) is None
