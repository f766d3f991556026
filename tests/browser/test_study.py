"""Raters in a real browser: mouse, keyboard, phone, two at once, and what their browsers get to know."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from eval.preference.design import load_design
from eval.preference.store import DATABASE, Store
from tests.browser.conftest import OpenPage
from tests.smallstudy import answers, make_study, served, tokens

HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script> & "a" \'bus\''
PROMPTS = ("a red cup", HOSTILE)
TRIALS = 4  # two pairs, a hidden tie, a repeat
QUESTIONS = 2


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"), PROMPTS, ties=1, repeats=1)


@pytest.fixture(scope="module")
def site(study: Path) -> Iterator[str]:
    with served(study) as (url, _):
        yield url


def of_rater(study: Path, token: str) -> list[tuple[int, str, str]]:
    """What a rater has answered: position, question, choice."""
    with Store(study / DATABASE) as store:
        rater = store.rater_of(token)
    assert rater
    return [
        (position, question, choice)
        for name, position, question, choice in answers(study)
        if name == rater.rater
    ]


def agree(page: Page) -> None:
    with page.expect_navigation():
        page.get_by_role("button", name="I agree").click()


def click_through(page: Page, choice: str) -> None:
    """Answer the comparison that is shown, all questions alike."""
    for group in page.get_by_role("group").all():
        group.get_by_role("radio", name=choice).check()
    with page.expect_navigation():
        page.get_by_role("button", name="Next").click()


def test_a_whole_study_by_mouse(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    page = open_page(f"{site}/r/{token}", viewport={"width": 1440, "height": 900})
    assert token not in page.url
    agree(page)
    for position in range(TRIALS):
        expect(page.get_by_text(f"{position + 1} of {TRIALS}")).to_be_visible()
        expect(page.get_by_role("img", name="Left object")).to_be_visible()
        expect(page.get_by_role("img", name="Right object")).to_be_visible()
        pictures = page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert pictures == [4 * 384] * 2
        click_through(page, ("Left", "Right", "Can’t tell")[position % 3])
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    wanted = [
        (p, q, ("left", "right", "tie")[p % 3]) for p in range(TRIALS) for q in ("alignment", "overall")
    ]
    assert of_rater(study, token) == wanted


def test_a_whole_study_by_keyboard_alone(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    page = open_page(f"{site}/r/{token}")
    press = page.keyboard.press
    press("Tab")
    press("Enter")
    angle = page.get_by_role("slider")
    for position in range(TRIALS):
        expect(page.get_by_text(f"{position + 1} of {TRIALS}")).to_be_visible()
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        press("Space")
        expect(page.get_by_role("button", name="Turn", exact=True)).to_be_visible()
        seen = int(angle.input_value())
        press("ArrowRight")
        expect(angle).to_have_value(str((seen + 1) % 4))
        press("ArrowLeft")
        press("ArrowLeft")
        expect(angle).to_have_value(str((seen - 1) % 4))
        press("1")
        press("ArrowRight")
        expect(angle).to_have_value(str(seen))
        press("3")
        press("Enter")
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    wanted = [(p, q, c) for p in range(TRIALS) for q, c in (("alignment", "left"), ("overall", "right"))]
    assert of_rater(study, token) == wanted


def test_native_keys_choose_too(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    page = open_page(f"{site}/r/{token}")
    agree(page)
    page.get_by_role("slider").focus()
    for key in ("Tab", "Space", "ArrowRight", "Tab", "Space", "Tab", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_text(f"2 of {TRIALS}")).to_be_visible()
    assert of_rater(study, token) == [(0, "alignment", "tie"), (0, "overall", "left")]


def test_a_whole_study_on_a_phone(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    page = open_page(
        f"{site}/r/{token}", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    page.get_by_role("button", name="I agree").tap()
    for position in range(TRIALS):
        expect(page.get_by_text(f"{position + 1} of {TRIALS}")).to_be_visible()
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for image in page.locator(".window").all():
            box = image.bounding_box()
            assert box and box["width"] > 150 and box["y"] + box["height"] < 844
        for option in page.locator(".options label, form button").all():
            box = option.bounding_box()
            assert box and box["height"] >= 44 and box["width"] >= 44
            if "Right" in option.inner_text():
                option.tap()
        page.get_by_role("button", name="Next").tap()
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    assert [choice for _, _, choice in of_rater(study, token)] == ["right"] * TRIALS * QUESTIONS


def test_two_raters_at_once_keep_apart(open_page: OpenPage, site: str, study: Path):
    one, other = tokens(study, 2)
    pages = [open_page(f"{site}/r/{token}") for token in (one, other)]
    for page in pages:
        agree(page)
    for _ in range(TRIALS):
        for page, choice in zip(pages, ("Left", "Right"), strict=True):
            click_through(page, choice)
    for page, token, choice in zip(pages, (one, other), ("left", "right"), strict=True):
        expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
        assert [said for _, _, said in of_rater(study, token)] == [choice] * TRIALS * QUESTIONS


def test_a_link_goes_on_in_a_second_browser_and_ends_with_the_study(
    open_page: OpenPage, site: str, study: Path
):
    [token] = tokens(study)
    open_page.expected += ["409"]  # type: ignore[attr-defined]
    first = open_page(f"{site}/r/{token}")
    agree(first)
    click_through(first, "Left")
    expect(first.get_by_text(f"2 of {TRIALS}")).to_be_visible()
    second = open_page(f"{site}/r/{token}")
    expect(second.get_by_text(f"2 of {TRIALS}")).to_be_visible()
    click_through(second, "Right")
    expect(second.get_by_text(f"3 of {TRIALS}")).to_be_visible()
    click_through(first, "Can’t tell")  # its page still shows the second comparison
    expect(first.get_by_text("The first answer stands")).to_be_visible()
    with first.expect_navigation():
        first.get_by_role("link", name="Go on").click()
    for _ in range(TRIALS - 2):
        click_through(first, "Left")
    expect(first.get_by_role("heading", name="Thank you")).to_be_visible()
    said = of_rater(study, token)
    assert [choice for _, _, choice in said[2:4]] == ["right"] * 2 and len(said) == TRIALS * QUESTIONS
    used = open_page(f"{site}/r/{token}")
    expect(used.get_by_text("You have finished")).to_be_visible()
    assert used.locator("form").count() == 0


def test_a_forged_link_is_refused(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    open_page.expected += ["404"]  # type: ignore[attr-defined]
    page = open_page(f"{site}/r/{token[:-1]}{'A' if token[-1] != 'A' else 'B'}")
    expect(page.get_by_text("personal link")).to_be_visible()
    page.goto(site)
    expect(page.get_by_text("personal link")).to_be_visible()


def test_without_javascript_and_with_little_motion(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    plain = open_page(f"{site}/r/{token}", java_script_enabled=False)
    agree(plain)
    assert plain.locator(".turn").is_hidden()
    click_through(plain, "Left")
    expect(plain.get_by_text(f"2 of {TRIALS}")).to_be_visible()
    still = open_page(f"{site}/r/{token}", reduced_motion="reduce")
    expect(still.get_by_role("button", name="Turn", exact=True)).to_be_visible()
    still.get_by_role("button", name="Turn", exact=True).click()
    expect(still.get_by_role("button", name="Pause")).to_be_visible()
    for _ in range(TRIALS - 1):
        click_through(still, "Right")
    expect(still.get_by_role("heading", name="Thank you")).to_be_visible()


def test_the_browser_gets_prompts_as_text_and_no_names(open_page: OpenPage, site: str, study: Path):
    [token] = tokens(study)
    design = load_design(study)
    received: list[str] = []
    sizes: set[int] = set()

    def keep(route: Route) -> None:
        got = route.fetch(max_redirects=0)
        received.append(f"{got.url} {got.headers_array} {got.body().decode('latin-1')}")
        if "/media/" in got.url:
            sizes.add(len(got.body()))
        route.fulfill(response=got)

    page = open_page(f"{site}/r/{token}")
    page.route("**/*", keep)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(f"{site}/r/{token}")
    agree(page)
    texts = []
    for _ in range(TRIALS):
        page.wait_for_load_state("networkidle")
        texts.append(page.get_by_role("heading").inner_text().split("\n")[-1])
        click_through(page, "Left")
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.unroute_all(behavior="wait")
    assert set(texts) == set(PROMPTS) and page.title() == "Study"
    assert len(sizes) == 1 and sum("/media/" in text for text in received) >= 2 * TRIALS
    names = {*design.methods, design.runs, *(pair.pair for pair in design.pairs)}
    names |= {name for pair in design.pairs for name in (pair.a.run, pair.b.run, *pair.media.values())}
    assert not {name for name in names for text in received if name in text}
