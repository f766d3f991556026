"""The report in a real browser, opened from the disk: seen, filtered, compared, and what it refuses."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import trimesh
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from eval.command import open_runs
from eval.report.index import script
from eval.report.results import results
from eval.report.write import write_report
from harness.records.identity import SuiteRef
from tests.browser.bench_report import serving
from tests.eval.conftest import PROMPTS, Sweep, clip_folder, picture

__all__ = ["clip_folder"]  # a fixture of the eval tests, used here, too

OpenPage = Callable[..., Page]
MARKUP = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'> \"quoted\" & 'so'"
RTL = "كوب أحمر \u202e🎨 ‏a red cup"
CAPTIONS = (*PROMPTS[:2], MARKUP, RTL)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> Path:
    """4 prompts × 2 methods × 2 seeds, two of them with hostile names; one failed, one new, one with a
    turntable and a mesh, one variant with a name that is markup."""
    root = tmp_path_factory.mktemp("browser") / "<b>runs"
    suite = SuiteRef(name="four", sha256=hashlib.sha256(repr(CAPTIONS).encode()).hexdigest(), size=4)
    runs = Sweep(root, suite, CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        looks = PROMPTS[index]
        for seed in (0, 1):
            end = {(0, 1): "failed", (1, 1): "new"}.get((index, seed), "done")
            folder = runs.add("tp_sds", caption, seed, end=end, shows=looks, variant="<i>iclr</i>")
            if (index, seed) == (0, 0):
                frames = [Image.new("RGB", (32, 32), (250, shade, 0)) for shade in range(0, 250, 25)]
                (folder.path / "turntable").mkdir()
                frames[0].save(
                    folder.path / "turntable" / "colour.webp", save_all=True, append_images=frames[1:]
                )
                (folder.path / "mesh").mkdir()
                trimesh.creation.box().export(folder.path / "mesh" / "object.glb")
            last = PROMPTS[5] if index == 1 else looks
            runs.add("uniform_sds", caption, seed, shows=[PROMPTS[4], last])
    out = tmp_path_factory.mktemp("report") / "report"
    study = open_runs(root, clip=str(clip_folder), device="cpu", samples=0)
    given = {caption: picture(PROMPTS[k], 7, 4) for k, caption in enumerate(CAPTIONS)}
    write_report(root, out, lambda: results(study), truth=lambda: given)
    return out


def address(report: Path, page: str = "index.html", hash_: str = "") -> str:
    return f"{report.as_uri()}/{page}" + (f"#{hash_}" if hash_ else "")


def stored(report: Path, name: str) -> dict:
    text = (report / "data" / f"{name}.js").read_text()
    return json.loads(text.partition("=")[2].removesuffix(";\n"))


def run_of(report: Path, prompt: int, method: int, seed: int) -> dict:
    runs = stored(report, "runs")["runs"]
    [found] = [run for run in runs if (run["prompt"], run["method"], run["seed"]) == (prompt, method, seed)]
    return found


UNIFORM, TP = 0, 1


def tile(page: Page, run: dict) -> Locator:
    """A run's place in the gallery, scrolled to: rows are filled when they come near."""
    page.locator(f"#row-{run['prompt']}").scroll_into_view_if_needed()
    return page.locator(f'.shot[data-run="{run["id"]}"]')


def fitting(report: Path, measure: str, fits: Callable[[float], bool]) -> int:
    """How many runs have a value of the measure that fits."""
    told = stored(report, "results")
    [place] = [k for k, each in enumerate(told["measures"]) if each["name"] == measure]
    return sum(fits(scores["values"][place]) for scores in told["scores"].values())


def test_it_opens_from_the_disk_with_its_tables_curves_and_every_seed(report: Path, open_page: OpenPage):
    page = open_page(address(report))
    expect(page.locator("#mark")).to_have_text("toy")
    expect(page.locator("#summary")).to_contain_text("16 runs of 2 methods × 4 prompts × 2 seeds")
    expect(page.locator("#summary")).to_contain_text("14 done, 1 waiting, 1 failed")
    expect(page.get_by_role("heading", name="Convergence")).to_be_visible()
    expect(page.locator("#numbers details").first).to_have_attribute("open", "")
    assert page.locator("#numbers table").count() >= 5
    page.locator("#gallery").scroll_into_view_if_needed()
    page.mouse.wheel(0, 2000)
    expect(page.locator(".shot")).to_have_count(16)
    failed, new = run_of(report, 0, TP, 1), run_of(report, 1, TP, 1)
    expect(tile(page, failed)).to_have_text("failed: non-finite gradient at step 13")
    expect(tile(page, new)).to_have_text("not started")
    expect(page.locator("#stamp")).to_contain_text("toy · CLIP toy-tiny")


def test_pictures_come_first_a_column_per_method_after_ground_truth(report: Path, open_page: OpenPage):
    page = open_page(address(report), viewport={"width": 1440, "height": 900})
    headings = page.locator("h2")
    expect(headings).to_have_text(["Every run", "Results", "Convergence"])
    first = page.locator(".row").first
    expect(first.locator(".method")).to_have_text(["ground truth", "uniform_sds", "tp_sds:<i>iclr</i>"])
    left = "cell => cell.getBoundingClientRect().x"
    lefts = f"rows => rows.map(row => [...row.querySelectorAll('.cell')].map({left}))"
    edges = page.locator(".row").evaluate_all(lefts)
    assert edges[0] == edges[1] == sorted(edges[0])
    last = first.locator(".shot").last.bounding_box()
    assert last and last["x"] + last["width"] > 900, "pictures grow with the page"
    image = first.locator(".given img")
    image.hover()
    expect(image).to_have_attribute("src", re.compile("truth-.*/turn.webp"))
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    page.get_by_role("link", name="Tables and curves").click()
    expect(page.locator("#numbers-title")).to_be_in_viewport()
    assert "#" not in page.url

    phone = open_page(address(report), **PHONE)
    expect(phone.locator(".given img").first).to_be_in_viewport()
    gallery = phone.locator("#gallery")
    assert gallery.evaluate("each => each.scrollWidth > each.clientWidth")
    gallery.evaluate("each => { each.scrollLeft = 1000; }")
    assert phone.locator(".given").first.bounding_box()["x"] == pytest.approx(16, abs=1)  # type: ignore[index]


def test_filters_narrow_the_gallery_and_live_in_the_address(report: Path, open_page: OpenPage):
    page = open_page(address(report))
    count = page.locator("#count")
    words = page.get_by_role("searchbox")
    state = page.get_by_role("combobox", name="State")
    expect(count).to_have_text("16 of 16 runs, 4 of 4 prompts")
    words.fill("BLUE")
    expect(count).to_have_text("4 of 16 runs, 1 of 4 prompts")
    page.get_by_role("checkbox", name="uniform_sds").check()
    expect(count).to_have_text("2 of 16 runs, 1 of 4 prompts")
    page.reload()
    expect(count).to_have_text("2 of 16 runs, 1 of 4 prompts")
    expect(words).to_have_value("BLUE")
    page.get_by_role("button", name="Clear").click()
    expect(count).to_have_text("16 of 16 runs, 4 of 4 prompts")
    state.select_option("failed")
    expect(count).to_have_text("1 of 16 runs, 1 of 4 prompts")
    state.select_option("miss")
    missed = fitting(report, "majority", lambda value: value == 0)
    assert 3 <= missed < 15
    expect(count).to_contain_text(f"{missed} of 16 runs")
    state.select_option("")
    page.get_by_role("combobox", name="Measure").select_option("per_view")
    page.get_by_label("At least").fill("100")
    whole = fitting(report, "per_view", lambda value: value == 1)
    assert 0 < whole < 15
    expect(count).to_contain_text(f"{whole} of 16 runs")
    page.get_by_label("At most").fill("99")
    expect(count).to_have_text("0 of 16 runs, 0 of 4 prompts")


def test_prompts_sort_by_how_far_the_methods_are_apart(report: Path, open_page: OpenPage):
    page = open_page(address(report))
    first = page.locator("#gallery h3").first
    sort = page.get_by_role("combobox", name="Sort")
    expect(first).to_have_text(CAPTIONS[0])
    for order in ("looks", "measure"):  # only on the second prompt do the methods show different things
        sort.select_option(order)
        expect(first).to_have_text(CAPTIONS[1])
    sort.select_option("failed")
    expect(first).to_have_text(CAPTIONS[0])


def test_a_curve_tells_its_values_to_mouse_keyboard_and_screen_reader(report: Path, open_page: OpenPage):
    page = open_page(address(report))
    tip = page.locator(".tip")
    lines = stored(report, "results")["curves"][0]["lines"]
    [line] = [line for line in lines if line["method"] == "uniform_sds"]
    assert line["x"] == [10, 20] and 0 < line["mean"][1] < 1

    def shown(k: int) -> str:
        return "{:g} [{:g}, {:g}]".format(
            *(round(100 * line[name][k], 1) for name in ("mean", "low", "high"))
        )

    plot = page.locator(".plot svg").first
    plot.scroll_into_view_if_needed()
    plot.focus()
    page.keyboard.press("End")
    expect(tip).to_contain_text("step 20")
    expect(tip).to_contain_text(f"uniform_sds {shown(1)}")
    page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text(f"uniform_sds {shown(0)}")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    plot.hover(position={"x": 400, "y": 100})
    expect(tip).to_be_visible()
    page.get_by_role("button", name="uniform_sds", exact=True).click()
    assert page.locator(".plot polyline").count() == 1
    page.get_by_text("The numbers as a table").click()
    expect(page.locator(".chart tbody tr").last).to_contain_text(shown(1))


def test_pictures_turn_on_hover_and_focus_and_only_when_asked_where_motion_is_reduced(
    report: Path, open_page: OpenPage
):
    run = run_of(report, 0, TP, 0)
    page = open_page(address(report))
    image = tile(page, run).locator("img")
    image.hover()
    expect(image).to_have_attribute("src", f"media/{run['key']}/turn.webp")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32, "the turntable's"
    page.mouse.move(0, 0)
    expect(image).to_have_attribute("src", f"media/{run['key']}/thumb.webp")

    still = open_page(address(report), reduced_motion="reduce")
    image = tile(still, run).locator("img")
    image.hover()
    expect(image).to_have_attribute("src", f"media/{run['key']}/thumb.webp")
    tile(still, run).focus()
    still.keyboard.press("Space")
    expect(image).to_have_attribute("src", f"media/{run['key']}/turn.webp")
    still.keyboard.press("Space")
    expect(image).to_have_attribute("src", f"media/{run['key']}/thumb.webp")


def test_two_runs_are_chosen_opened_and_compared_by_keyboard_alone(report: Path, open_page: OpenPage):
    page = open_page(address(report))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.get_by_role("button", name="Clear").focus()
    first = page.locator(".shot").first
    expect(first).to_be_attached()
    page.keyboard.press("Tab")
    expect(first).to_be_focused()
    expect(first.locator("img")).to_have_attribute(
        "src", f"media/{run_of(report, 0, UNIFORM, 0)['key']}/turn.webp"
    )
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tile(page, run_of(report, 0, TP, 0))).to_be_focused()
    page.keyboard.press("c")
    page.keyboard.press("ArrowDown")
    expect(tile(page, run_of(report, 1, TP, 0))).to_be_focused()
    expect(page.locator("#tray li")).to_have_count(2)
    page.get_by_role("link", name="Compare", exact=True).last.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare.html#*")
    expect(page.locator(".half figcaption a").first).to_contain_text("uniform_sds")
    step = page.get_by_label("Step", exact=True)
    expect(step).to_have_attribute("aria-valuetext", "step 20")
    expect(page.locator(".half .fine").first).to_contain_text(
        "step 20 of 20 · retrieved from 100 % of the views"
    )
    before = [colour(page, side) for side in (0, 1)]
    step.focus()
    page.keyboard.press("Home")
    expect(page.locator(".half .fine").first).to_contain_text(
        "step 10 of 20 · retrieved from 0 % of the views"
    )
    after = [colour(page, side) for side in (0, 1)]
    assert far(before[0], after[0]) and not far(before[1], after[1]), "only the baseline changed its object"
    page.get_by_label("View", exact=True).focus()
    page.keyboard.press("End")
    expect(page.locator("canvas").first).to_have_attribute("aria-label", re.compile("elevation 45°"))
    page.reload()
    expect(page.get_by_label("Step", exact=True)).to_have_attribute("aria-valuetext", "step 10")


def colour(page: Page, side: int) -> list[int]:
    """The middle pixel of a comparison's half, once its film is there."""
    canvas = page.locator("canvas").nth(side)
    page.wait_for_function("canvas => canvas.width === 16", arg=canvas.element_handle())
    with Image.open(io.BytesIO(canvas.screenshot())) as shot:
        return list(shot.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))  # type: ignore[arg-type]


def far(one: list[int], other: list[int]) -> bool:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 120


def test_other_runs_are_picked_on_the_page_that_compares(report: Path, open_page: OpenPage):
    page = open_page(address(report, "compare.html"))
    expect(page.locator(".half figcaption a")).to_have_count(2)
    page.get_by_role("combobox", name="Prompt").first.select_option("1")
    expect(page.locator(".half figcaption a").first).to_contain_text(CAPTIONS[1])
    page.get_by_role("combobox", name="Seed").first.select_option("1")
    expect(page.locator(".half figcaption a").first).to_contain_text("seed 1")
    page.get_by_role("button", name="Next prompt").click()
    expect(page.locator(".half figcaption a").first).to_contain_text(MARKUP)
    page.get_by_role("button", name="Swap").click()
    expect(page.locator(".half figcaption a").first).to_contain_text("<i>iclr</i>")


def test_a_runs_page_has_its_spec_curves_views_failure_and_command(report: Path, open_page: OpenPage):
    failed = run_of(report, 0, TP, 1)
    page = open_page(address(report))
    tile(page, failed).click()
    page.wait_for_url(f"**/run.html#{quote(failed['id'])}")
    expect(page.get_by_role("heading", name="Failed at step 13")).to_be_visible()
    expect(page.locator(".failure")).to_contain_text("non-finite gradient")
    expect(page.locator("canvas")).to_have_count(5)
    expect(page.locator(".command")).to_contain_text("harness sweep suites/four.txt --limit 1 --methods")
    expect(page.locator(".command")).to_contain_text("--set views.azimuths=4")
    assert (report / "suites" / "four.txt").read_text().splitlines() == list(CAPTIONS)
    page.get_by_text("Specification").click()
    expect(page.locator("dl").last).to_contain_text("guidance.cfg_scale")

    done = run_of(report, 0, TP, 0)
    page.goto(address(report, "run.html", quote(done["id"])))
    expect(page.get_by_role("heading", name="Measured at the last step")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Mesh (glb)").click()
    assert len(trimesh.load(download.value.path(), file_type="glb", force="mesh").faces) == 12  # type: ignore
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("canvas").first).to_have_attribute("aria-label", re.compile("step 10, azimuth 0°"))
    page.get_by_text("All steps at once").click()
    expect(page.locator("img.film")).to_be_visible()
    page.goto(address(report, "run.html", "<b>none</b>"))
    expect(page.get_by_role("heading", name="No such run")).to_be_visible()


def test_hostile_names_stay_text_on_every_page(report: Path, open_page: OpenPage):
    for name in ("index.html", "compare.html", f"run.html#{quote(run_of(report, 2, TP, 0)['id'])}"):
        page = open_page(f"{report.as_uri()}/{name}")
        page.wait_for_load_state("load")
        assert page.evaluate("window.broken") is None
        assert page.locator("main script, main b:has-text('runs'), main i").count() == 0
        assert "<b>runs" in page.inner_text("header")
    page = open_page(address(report))
    page.mouse.wheel(0, 4000)
    titles = page.locator("#gallery h3")
    expect(titles.nth(2)).to_have_text(MARKUP)
    expect(titles.nth(3)).to_have_text(RTL)
    expect(page.locator(".cell .method", has_text="<i>iclr</i>").first).to_be_attached()


def test_a_page_runs_and_takes_in_nothing_but_its_own(report: Path, open_page: OpenPage):
    told = ["TrustedHTML", "TrustedScript", "Content Security Policy", "example.org"]
    open_page.expected += told  # type: ignore[attr-defined]
    page = open_page(address(report))
    as_html = "try { document.body.innerHTML = '<b>x</b>'; 'let' } catch (e) { e.name }"
    assert page.evaluate(as_html) == "TypeError"
    assert page.evaluate("load('data/../../evil.js').then(() => 'let', (e) => e.name)") == "TypeError"
    page.evaluate("fetch('https://example.org/').catch(e => window.refused = e.name)")
    page.wait_for_function("window.refused === 'TypeError'")


def test_no_page_scrolls_sideways_on_a_phone(report: Path, open_page: OpenPage):
    for name in ("index.html", "compare.html", f"run.html#{quote(run_of(report, 2, TP, 0)['id'])}"):
        page = open_page(f"{report.as_uri()}/{name}", **PHONE)
        page.wait_for_load_state("load")
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(100)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_the_theme_follows_the_system_or_its_button(
    report: Path, open_page: OpenPage, scheme: str
):
    for name in ("index.html", "compare.html", f"run.html#{quote(run_of(report, 0, TP, 1)['id'])}"):
        page = open_page(f"{report.as_uri()}/{name}", color_scheme=scheme)
        page.wait_for_load_state("load")
        assert page.evaluate(CONTRAST) == []
    dark = "getComputedStyle(document.body).backgroundColor === 'rgb(19, 21, 24)'"
    assert page.evaluate(dark) == (scheme == "dark")
    theme = page.locator("#theme")
    expect(theme).to_have_text("Theme: auto")
    theme.click()
    assert not page.evaluate(dark)
    theme.click()
    assert page.evaluate(dark)
    page.reload()
    expect(theme).to_have_text("Theme: dark")
    assert page.evaluate(dark)


def test_little_is_transferred_before_scrolling_however_many_runs(
    report: Path, open_page: OpenPage, tmp_path: Path
):
    """2 295 entries that share the pictures of one run; what they weigh is theirs."""
    shutil.copytree(report, tmp_path / "report")
    told, numbers = stored(report, "runs"), stored(report, "results")
    like = run_of(report, 0, UNIFORM, 0)
    told["methods"] = [
        told["methods"][0] | {"name": name} for name in ("uniform_sds", "linear_decay", "tp_sds")
    ]
    told["prompts"] = [f"a prompt of usual length, and its number is {k}" for k in range(153)]
    told["runs"] = [
        like | {"id": f"{like['id']}-{prompt}-{m}-{seed}", "prompt": prompt, "method": m, "seed": seed}
        for prompt in range(153)
        for m in range(3)
        for seed in range(5)
    ]
    numbers["scores"] = {run["id"]: numbers["scores"][like["id"]] for run in told["runs"]}
    for name, value in (("index", told), ("results", numbers)):
        file = {"index": "runs"}.get(name, name)
        (tmp_path / "report" / "data" / f"{file}.js").write_bytes(script(name, value))
    with serving(tmp_path / "report") as (base, sent):
        page = open_page(base)
        expect(page.locator("#count")).to_have_text("2295 of 2295 runs, 153 of 153 prompts")
        page.wait_for_load_state("networkidle")
        assert 0.2e6 < sum(sent) < 3e6
        assert page.locator(".shot").count() < 300
        page.get_by_role("searchbox").fill("number is 152")
        expect(page.locator("#count")).to_have_text("15 of 2295 runs, 1 of 153 prompts")
        expect(page.locator(".shot")).to_have_count(15)
        page.close()  # before the server: pictures may still be on their way
