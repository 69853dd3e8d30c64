"""The web page in a real browser: headless Chromium against the service in this process."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pymupdf
import pytest
from collection_helpers import index, use_inline_pool
from PIL import Image
from web_helpers import Quoter, service

from hiperrag.service.keys import add

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Page = sync_api.Page
expect = sync_api.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = (
    "The quokka colony <img src=x onerror=document.title=1> of the northern island was counted in spring and held "
    "<script>document.title = 'stolen'</script> 412 animals in all, which is more than in any year before."
)
TITLE = "<b onclick=alert(1)>Quokkas</b> & their islands"
RINGED = "one => getComputedStyle(one).outlineStyle !== 'none' || !!one.closest('.askline, .chip')"
QUESTION = "How many quokkas were counted in the colony of the northern island?"


SENTENCES = (
    "Aerogels insulate because their pores trap air.",
    "The lichen was sampled on forty boulders of the eastern moraine, at three heights above the ground.",
    "Its thalli grew 0.41 mm a year on granite, which is half of what they grew on the limestone nearby.",
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, models) -> Path:
    """A PDF of two pages, and two rows of ready text, one of whose words are markup."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "in").mkdir()
    write_pdf(folder / "in" / "lichen.pdf")
    row = {"_id": "<i>row</i>", "title": TITLE, "text": HOSTILE, "year": 2031, "journal": "O'Hara <u>Letters</u>"}
    other = {"_id": "row 2", "title": "Terns", "text": "Terns migrate from pole to pole.", "journal": "Birds"}
    (folder / "in" / "rows.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n")
    return indexed(folder / "in", folder / "small")


@pytest.fixture(scope="module")
def papers(examples, tmp_path_factory, models) -> Path:
    """Two of the sample papers."""
    folder = tmp_path_factory.mktemp("papers")
    (folder / "in").mkdir()
    for name in ("alloy-fatigue.pdf", "peat-nitrification.pdf"):
        shutil.copy(examples / name, folder / "in" / name)
    return indexed(folder / "in", folder / "papers")


def write_pdf(path: Path) -> None:
    with pymupdf.open() as pdf:
        for start in (0, 1):
            page = pdf.new_page(width=500, height=700)
            page.insert_textbox((60, 60, 440, 110), "Growth of lichens on boulders", fontsize=18, fontname="hebo")
            text = " ".join(SENTENCES[start:] * 3)
            page.insert_textbox((60, 300 + 100 * start, 440, 640), text, fontsize=11, fontname="tiro")
        pdf.save(path)


def indexed(sources: Path, root: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        index(sources, root)
    return root


@pytest.fixture(scope="module")
def address(collection) -> Iterator[str]:
    with service({"small": collection, "more": collection}, Quoter(), requests_per_minute=0) as (address, _):
        yield address


@pytest.fixture(scope="module")
def papers_address(papers) -> Iterator[str]:
    with service({"papers": papers}, Quoter(), requests_per_minute=0) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page of the browser, and what it did that it should not have."""

    def __init__(self, browser, address: str, **context: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.problems: list[str] = []
        self.address = address
        self.page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.on("request", self._see)

    def _see(self, request) -> None:
        if not request.url.startswith((self.address, "blob:")):
            self.problems.append(f"asked {request.url}")

    def open(self, hash: str = "") -> Page:
        self.page.goto(f"{self.address}/{hash}")
        return self.page

    def ask(self, question: str = QUESTION) -> None:
        self.page.get_by_label("Question").fill(question)
        self.page.keyboard.press("Enter")
        expect(self.page.locator(".answer").last).to_have_attribute("aria-busy", "false")


@pytest.fixture
def reading(browser, papers_address) -> Iterator[Visit]:
    """A visit to the sample papers."""
    visit = Visit(browser, papers_address)
    yield visit
    visit.context.close()
    assert visit.problems == []


@pytest.fixture
def visit(browser, address) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    visit.context.close()
    assert visit.problems == []


def wait_for_picture(page: Page) -> None:
    expect(page.locator("#side .sheet.waiting")).to_have_count(0)
    expect(page.locator("#side .sheet img[src]")).to_have_count(1)


def check_boxes(visit: Visit, pdf_path: Path) -> None:
    """Open the first citation: the words of the supporting sentence lie within a box drawn on the picture."""
    page = visit.page
    page.locator(".answer .cite").first.click()
    wait_for_picture(page)
    support = page.locator("#side .readerbody > .support").first.inner_text()
    expect(page.locator("#side mark").first).to_have_text(support)
    sheet = page.locator("#side .sheet").bounding_box()
    shown = [box.bounding_box() for box in page.locator("#side .box").all()]
    n_page = int(re.search(r"Page (\d+) of", page.locator("#side .pagebar").inner_text())[1])
    with pymupdf.open(pdf_path) as pdf:
        size = pdf[n_page - 1].rect
        places = pdf[n_page - 1].search_for(" ".join(support.split()[:3]))
    assert places, support
    x = sheet["x"] + sheet["width"] * (places[0].x0 + places[0].x1) / 2 / size.width
    y = sheet["y"] + sheet["height"] * (places[0].y0 + places[0].y1) / 2 / size.height
    assert any(
        box["x"] <= x <= box["x"] + box["width"] and box["y"] <= y <= box["y"] + box["height"] for box in shown
    ), (x, y, shown)
    page.keyboard.press("Escape")
    expect(page.locator(".answer .cite").first).to_be_focused()


def test_number_opens_the_page_with_the_boxes_where_the_words_are(visit, collection):
    page = visit.open("#/small")
    visit.ask("How fast did lichen thalli grow on granite boulders?")
    check_boxes(visit, collection.parent / "in" / "lichen.pdf")
    expect(page.locator("#side .card").first).to_be_visible()


@pytest.mark.slow
def test_boxes_lie_right_in_two_columns(reading, papers):
    reading.open()
    reading.ask("How much nitrous oxide does a rewetted fen emit?")
    check_boxes(reading, papers.parent / "in" / "peat-nitrification.pdf")


def test_what_passages_say_stays_text(visit):
    page = visit.open("#/small")
    visit.ask()
    expect(page.locator(".answer")).to_contain_text("<script>document.title = 'stolen'</script>")
    page.locator(".answer .cite").first.click()
    expect(page.locator("#side h2")).to_have_text(TITLE)
    expect(page.locator("#side .passagetext").first).to_contain_text("<img src=x onerror=document.title=1>")
    expect(page.locator("#side .meta")).to_contain_text("O'Hara <u>Letters</u>")
    page.goto(f"{visit.address}/#/small/search")
    page.locator("#query").fill("quokka colony")
    page.keyboard.press("Enter")
    expect(page.locator(".results .card").first).to_contain_text(TITLE)
    for markup in ("img[src=x]", "main script", "#side script", "main b", "main u", "main i"):
        assert page.locator(markup).count() == 0
    assert "HiPerRAG" in page.title()


@pytest.mark.slow
def test_search_with_filters(visit):
    page = visit.open("#/small/search")
    page.locator("#query").fill("quokkas and terns")
    page.get_by_label("From year").fill("2030")
    page.get_by_label("journal").select_option("O'Hara <u>Letters</u>")
    page.get_by_label("Condition").fill("kind == 'paragraph'")
    expect(page.locator(".condition")).to_have_text(
        "Only passages with year >= 2030 and journal == 'O\\'Hara <u>Letters</u>' and (kind == 'paragraph')"
    )
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".results .card")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".results .card")).not_to_have_count(1)
    page.get_by_label("Condition").fill("colour == 'red'")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".search .notice")).to_contain_text("colour")
    visit.problems[:] = [problem for problem in visit.problems if "422" not in problem]


@pytest.mark.slow
def test_search_by_kind(reading):
    page = reading.open("#/papers/search")
    page.locator(".chip", has_text="table").click()
    page.locator("#query").fill("fatigue strength")
    page.keyboard.press("Enter")
    expect(page.locator(".results .place").first).to_contain_text("table")
    assert all("table" in place for place in page.locator(".results .place").all_inner_texts())


@pytest.mark.slow
def test_page_by_page(reading):
    page = reading.open("#/papers/search")
    page.locator("#query").fill("laser peening of plates")
    page.keyboard.press("Enter")
    page.locator(".results .card").first.click()
    wait_for_picture(page)
    bar = page.locator("#side .pagebar")
    before = bar.inner_text()
    page.get_by_role("button", name="Page after").click()
    expect(bar).not_to_have_text(before)
    wait_for_picture(page)
    link = page.get_by_role("link", name="Link").get_attribute("href")
    other = reading.context.new_page()
    other.goto(f"{reading.address}/{link}")
    wait_for_picture(other)
    assert other.locator("#side .box").count() > 0


@pytest.mark.slow
def test_everything_by_keyboard(visit):
    page = visit.open("#/small")
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#announcer")).to_contain_text("The answer is complete.")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.locator("#reader-title")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#side .sidehead .of")).to_have_text("2 of 4")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#side .sidehead .of")).to_have_text("1 of 4")
    page.keyboard.press("Escape")
    expect(page.locator("#side .card").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#side .card").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#side .sidehead .of")).to_have_text("2 of 4")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    expect(page.locator("#compare .column").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#compare .column").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#compare")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_label("Question")).to_be_focused()


@pytest.mark.slow
def test_focus_is_seen_wherever_it_goes(visit):
    page = visit.open("#/small")
    visit.ask()
    page.keyboard.press("Escape")
    seen = []
    for _ in range(25):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if not focused.count():
            break
        ring = focused.evaluate(RINGED)
        seen.append(focused.evaluate("one => one.className || one.id || one.tagName"))
        assert ring, seen
    assert len(seen) > 10
    assert "cite" in seen
    assert "why" in seen


@pytest.mark.slow
def test_which_passage_caused_this_sentence(visit):
    page = visit.open("#/small")
    visit.ask()
    page.get_by_role("button", name="Which passage caused sentence 1?").click()
    bars = page.locator(".bars li")
    expect(bars).to_have_count(4)
    effects = [float(text.replace("−", "-")) for text in page.locator(".bars .figure").all_inner_texts()]
    assert effects == sorted(effects, reverse=True)
    assert effects[0] > 0
    widths = [track.bounding_box()["width"] for track in page.locator(".bars .fill").all()]
    assert widths[0] == max(widths) > 50
    expect(bars.first.locator(".cite")).to_have_text("1")
    page.get_by_role("button", name="Close").click()
    expect(bars).to_have_count(0)


@pytest.mark.slow
def test_conversation_is_kept_in_this_tab_and_sent_with_a_follow_up(visit):
    page = visit.open("#/small")
    visit.ask()
    first = page.locator(".answer").inner_text()
    page.reload()
    expect(page.locator(".answer")).to_have_text(re.compile(re.escape(first[:40])))
    with page.expect_request("**/v1/chat/completions") as sent:
        visit.ask("And how many were there before?")
    roles = [message["role"] for message in sent.value.post_data_json["messages"]]
    assert roles == ["user", "assistant", "user"]
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_label("Collection").select_option("more")
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_label("Collection").select_option("small")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    page.reload()
    expect(page.get_by_role("heading", name="Ask small")).to_be_visible()


@pytest.mark.slow
def test_colours_follow_the_system_and_the_switch(browser, address):
    visit = Visit(browser, address, color_scheme="dark")
    page = visit.open("#/small")
    background = "() => getComputedStyle(document.body).backgroundColor"

    def brightness() -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate(background))[:3]))

    assert brightness() < 150
    page.get_by_role("button", name="Colours").click()
    assert brightness() > 600
    page.reload()
    assert brightness() > 600
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Colours").click()
    assert brightness() < 150
    visit.context.close()
    assert visit.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("view", ["", "/search", "/facts"])
def test_nothing_is_wider_than_a_phone(browser, address, view):
    visit = Visit(browser, address, viewport={"width": 360, "height": 740}, has_touch=True)
    page = visit.open(f"#/small{view}")

    def check() -> None:
        assert page.evaluate("() => document.documentElement.scrollWidth") == 360

    if view == "":
        visit.ask()
        check()
        page.get_by_text("Filters").click()
        check()
        page.get_by_role("button", name="Which passage caused sentence 1?").click()
        expect(page.locator(".bars li").first).to_be_visible()
        check()
        page.locator(".answer .cite").first.click()
        expect(page.locator("#side .passagetext").first).to_be_visible()
    elif view == "/search":
        page.locator("#query").fill("lichens on granite")
        page.keyboard.press("Enter")
        page.locator(".results .card").first.click()
        wait_for_picture(page)
    else:
        expect(page.locator(".kinds li").first).to_be_visible()
    check()
    visit.context.close()
    assert visit.problems == []


@pytest.mark.slow
def test_busy_service_is_asked_again_after_a_countdown(visit):
    page = visit.open("#/small")
    page.clock.install()
    refused = []

    def refuse_once(route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route)
        body = {"error": {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": "x"}}
        route.fulfill(status=429, json=body, headers={"Retry-After": "7"})

    page.route("**/v1/chat/completions", refuse_once)
    page.get_by_label("Question").fill(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".turn .notice")).to_contain_text("Trying again in 7 s")
    page.clock.run_for(3000)
    expect(page.locator(".turn .notice")).to_contain_text("Trying again in 4 s")
    page.clock.run_for(5000)
    expect(page.locator(".answer")).to_contain_text("412 animals")
    visit.problems[:] = [problem for problem in visit.problems if "429" not in problem]


@pytest.mark.slow
def test_broken_and_lost_connections_are_told(visit):
    page = visit.open("#/small")
    begun = 'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\ndata: {"choices":[{"delta":{"content":"One."}}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=begun, content_type="text/event-stream"))
    visit.ask()
    expect(page.locator(".turn .notice")).to_contain_text("The connection was lost before the answer was finished.")
    expect(page.locator(".answer")).to_contain_text("One.")
    failed = begun + 'data: {"error":{"message":"the generator stopped","type":"server_error"}}\n\n'
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=failed, content_type="text/event-stream"))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn .notice")).to_contain_text("The generator stopped.")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn .notice")).to_contain_text("The service cannot be reached. Trying again in")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer")).to_contain_text("412 animals")
    visit.problems[:] = [problem for problem in visit.problems if "ERR_FAILED" not in problem]


@pytest.mark.slow
def test_missing_shards_are_told(visit):
    shards = {"total": 5, "open": 3, "missing": ["00001", "00004"]}
    one = {"id": "small", "model": "hiperrag/small", "shards": shards}
    visit.page.route("**/v1/collections", lambda route: route.fulfill(json={"data": [one], "signed_in": True}))
    page = visit.open("#/small")
    expect(page.locator("#banner")).to_contain_text("2 of 5 shards missing")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


@pytest.mark.slow
def test_answer_is_drafted_then_checked_and_can_be_stopped(browser, collection):
    with service({"small": collection}, Quoter(pause_s=0.1)) as (address, _):
        visit = Visit(browser, address)
        page = visit.open()
        page.get_by_label("Question").fill(QUESTION)
        page.keyboard.press("Enter")
        expect(page.locator(".draft")).to_contain_text("quokka")
        expect(page.locator(".sentence").first).to_contain_text("412 animals")
        expect(page.locator(".draft")).not_to_contain_text("412")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".turn .status")).to_have_text("Stopped.")
        expect(page.locator(".sentence")).not_to_have_count(3)
        visit.context.close()
        assert visit.problems == []


@pytest.mark.slow
def test_login_and_back_to_the_link(browser, collection, tmp_path):
    keys = tmp_path / "keys.jsonl"
    key = add(keys, "reader", None, None)
    with service({"small": collection}, Quoter(), keys_file=keys) as (address, _):
        visit = Visit(browser, address)
        page = visit.open("#/small/facts")
        expect(page).to_have_url(f"{address}/login#/small/facts")
        page.get_by_label("Your key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator(".facts h1")).to_have_text("small")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Your key")).to_be_visible()
        visit.context.close()
        assert visit.problems == []


def test_routes_of_pictures_and_passages(address, collection):
    """Without the browser."""
    base = f"{address}/v1/collections/small/passages"
    with httpx.Client(timeout=60) as client:
        one = f"{base}/{passage_of(client, address, 'small', 'lichens on granite')}"
        picture = client.get(f"{one}/pages/1.png?width=300")
        assert picture.headers["x-page-drawn-from"] == "source"
        assert Image.open(io.BytesIO(picture.content)).size == (400, 560)
        told = client.get(one).json()
        assert told["page_sizes"][0] == {"page": told["pages"][0], "width": 500, "height": 700}
        assert all(box[0] in told["pages"] for box in told["boxes"])
        following = told["next"] or told["previous"]
        assert abs(following["ordinal"] - told["ordinal"]) == 1
        for path, status in (
            ("/pages/0.png", 404),
            ("/pages/3.png", 404),
            ("/pages/1.png?width=9999", 422),
            ("/pages/..%2f..%2fmanifest.json", 404),
        ):
            assert client.get(one + path).status_code == status, path
        for odd in ("nothing", "%00", "%FF%FE", "x" * 5000, "%F0%9F%A6%98", "'%20or%201=1"):
            assert client.get(f"{base}/{odd}").status_code == 404, odd
        assert client.get(f"{one}/pages/{10**40}.png").status_code == 404
        facts = client.get(f"{address}/v1/collections/small")
        assert facts.json()["documents"] == 3
        assert str(collection.parent) not in facts.text
        assert client.get(f"{address}/v1/collections/other").status_code == 404
        assert client.get(f"{address}/web/..%2fapp.py").status_code == 404
        page = client.get(f"{address}/")
        unchanged = client.get(f"{address}/", headers={"If-None-Match": page.headers["etag"]})
        assert unchanged.status_code == 304
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy


@pytest.mark.slow
def test_source_that_is_not_what_was_indexed_is_drawn_from_its_text(browser, tmp_path, models):
    (tmp_path / "in").mkdir()
    pdf = tmp_path / "in" / "lichen.pdf"
    write_pdf(pdf)
    with zipfile.ZipFile(tmp_path / "in" / "more.zip", "w") as archive:
        archive.writestr("folder/terns.pdf", pdf.read_bytes() + b"% another document")
    root = indexed(tmp_path / "in", tmp_path / "own")
    with service({"own": root}, Quoter(), requests_per_minute=0) as (address, app):
        with httpx.Client(timeout=60) as client:
            asked = {"collection": "own", "query": "lichens on granite", "k": 50}
            hits = client.post(f"{address}/v1/search", json=asked).json()["hits"]
            member = next(hit for hit in hits if hit["document"].endswith("terns.pdf"))
            plain = next(hit for hit in hits if hit["document"].endswith("lichen.pdf"))

            def drawn_from(hit: dict) -> str:
                app.state.reading.renderer.forget()
                path = f"{address}/v1/collections/own/passages/{hit['passage_id']}/pages/1.png"
                return client.get(path).headers["x-page-drawn-from"]

            client.get(f"{address}/v1/collections/own/passages/{plain['passage_id']}")
            assert drawn_from(member) == drawn_from(plain) == "source"
            pdf.write_bytes(pdf.read_bytes() + b"%")
            assert drawn_from(plain) == "text; changed"
            pdf.unlink()
            assert drawn_from(plain) == "text; gone"
        visit = Visit(browser, address)
        page = visit.open(f"#/own/passages/{plain['passage_id']}?page=1")
        expect(page.locator("#side .notice")).to_contain_text("drawn from the text that was read")
        wait_for_picture(page)
        visit.context.close()
        assert visit.problems == []


def passage_of(client: httpx.Client, address: str, collection: str, query: str) -> str:
    asked = {"collection": collection, "query": query, "k": 1}
    found: str = client.post(f"{address}/v1/search", json=asked).json()["hits"][0]["passage_id"]
    return found
