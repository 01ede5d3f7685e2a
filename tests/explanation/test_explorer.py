"""The page to play with: its mathematics in Node, and the page itself in a headless Chromium."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import softmaxloss as sl
from softmaxloss.cli import main
from thorough import thorough

DRIVER = importlib.util.find_spec("playwright")  # which brings a Node.js of its own
NODE = shutil.which("node") or (DRIVER and str(Path(DRIVER.origin).parent / "driver" / "node"))
MATHEMATICS = Path(sl.__file__).parent / "explorer" / "mathematics.js"
WIDTHS = (360, 768, 1024, 1440)
over_widths = pytest.mark.parametrize("width", [WIDTHS[0], *map(thorough, WIDTHS[1:-1]), WIDTHS[-1]])


def problems(n):
    """Return random logits, targets, smoothing and temperature of the kind that the page offers."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        n_classes = int(rng.integers(2, 11))
        logits = np.round(rng.uniform(-8, 8, n_classes), int(rng.integers(0, 4)))
        target = np.eye(n_classes)[rng.integers(n_classes)] if rng.random() < 0.5 else rng.dirichlet(np.ones(n_classes))
        yield {
            "logits": logits.tolist(),
            "target": target.tolist(),
            "label_smoothing": float(rng.choice([0, 0.1, 0.37])),
            "temperature": float(rng.choice([1, 0.2, 2.5])),
        }


def explained(problem):
    arguments = {name: value for name, value in problem.items() if name not in {"logits", "target"}}
    return sl.explain(problem["logits"], problem["target"], **arguments)


@pytest.mark.skipif(NODE is None, reason="there is no Node.js here")
def test_the_mathematics_of_the_page_is_that_of_the_library():
    given = list(problems(200))
    script = f"""
        const S = require({json.dumps(str(MATHEMATICS))});
        console.log(JSON.stringify({json.dumps(given)}.map((p) => {{
            const t = S.smoothed(p.target, p.label_smoothing), nodes = S.graph(p.logits, t, p.temperature);
            const row = S.explain(p.logits, t, p.temperature), n = p.logits.length;
            return {{...row, t, gradients: nodes.slice(0, n).map((node) => node.gradient), last: nodes.at(-1).value,
                     stepped: S.step(p.logits, row.dx, 0.5), share: S.redistributed(p.target, 1, 0.25)}};
        }})));"""
    results = json.loads(subprocess.run([NODE, "-e", script], check=True, capture_output=True, text=True).stdout)
    for problem, result in zip(given, results, strict=True):
        right = explained(problem)
        for name in ("shifted", "exponentials", "y", "t", "terms", "dx", "loss"):
            np.testing.assert_allclose(result[name], getattr(right, name), rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(result["gradients"], right.dx, rtol=0, atol=1e-12)
        assert result["last"] == pytest.approx(right.loss, rel=1e-12)
        np.testing.assert_allclose(result["stepped"], right.logits - 0.5 * right.dx, rtol=1e-12, atol=1e-14)
        assert sum(result["share"]) == pytest.approx(1, rel=1e-12)
        assert result["share"][1] == 0.25


@pytest.fixture
def visit(browser, tmp_path):
    """Open the page at a width; at the end it has asked for nothing, and said nothing on the console."""
    sl.explore().save(tmp_path / "explorer.html")
    address, messages, contexts = (tmp_path / "explorer.html").as_uri(), [], []

    def visit(width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if request.url != address else None)
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [message for message in messages if message != "data:,"] == []


def set_value(page, selector, value):
    page.eval_on_selector(
        selector,
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }",
        str(value),
    )


SET_PROBLEM = """problem => {
    const find = (selector) => document.querySelector(selector);
    const more = () => problem.logits.length - document.querySelectorAll('#classes tbody tr').length;
    const set = (selector, value) => {
        find(selector).value = value;
        find(selector).dispatchEvent(new Event('input', {bubbles: true}));
    };
    while (more()) find(more() > 0 ? '#add' : '#remove').click();
    problem.logits.forEach((z, j) => set(`[data-kind=logit][data-class='${j}']`, z));
    find(`[data-kind=truth][data-class='${problem.target.indexOf(Math.max(...problem.target))}']`).click();
    set('#temperature', problem.temperature);
    set('#smoothing', problem.label_smoothing);
}"""


def set_problem(page, problem):
    page.evaluate(SET_PROBLEM, problem)


def numbers(page, table):
    """Return the numbers of a table, row by row, with all their digits."""
    script = (
        "rows => rows.map(row => [...row.querySelectorAll('[data-value]')].map(cell => Number(cell.dataset.value)))"
    )
    return np.array(page.eval_on_selector_all(f"#{table} tbody tr", script))


def test_the_page_shows_what_the_library_computes(visit):
    page = visit()
    for button, n_classes in (("#add", 4), ("#remove", 3), ("#remove", 2)):
        page.click(button)
        assert page.locator("#classes tbody tr").count() == n_classes
    for given in problems(12):
        problem = {**given, "target": np.eye(len(given["logits"]))[int(np.argmax(given["target"]))].tolist()}
        set_problem(page, problem)
        right = explained(problem)
        columns = (right.logits, right.shifted, right.exponentials, right.y, right.t, right.terms, right.dx)
        np.testing.assert_allclose(numbers(page, "numbers").T, columns, rtol=1e-12, atol=1e-12)
        assert float(page.get_attribute("#loss", "data-value")) == pytest.approx(right.loss, rel=1e-12)
        page.click("#all")
        arrived = page.eval_on_selector_all(
            "#graph text[data-gradient]", "all => all.map(a => Number(a.dataset.gradient))"
        )
        np.testing.assert_allclose(arrived, right.dx, rtol=0, atol=1e-12)


def test_a_soft_target_can_be_dragged_and_stays_a_distribution(visit):
    page = visit()
    set_value(page, "[data-kind=share][data-class='0']", 0.4)
    set_value(page, "[data-kind=share][data-class='1']", 0.35)
    t = numbers(page, "numbers")[:, 4]
    np.testing.assert_allclose(t, [0.26, 0.35, 0.39], rtol=1e-12)
    assert "spread" in page.inner_text("#curve-text")


def test_steps_go_down_the_gradient_and_the_loss_falls(visit):
    page = visit()
    logits, losses = np.array([0.3, 2.9, 4.0]), []
    for _ in range(3):
        losses.append(float(page.get_attribute("#loss", "data-value")))
        logits -= sl.explain(logits, 2).dx
        page.click("#step")
        np.testing.assert_allclose(numbers(page, "numbers")[:, 0], logits, rtol=1e-12)
    page.click("#ten")
    losses.append(float(page.get_attribute("#loss", "data-value")))
    assert losses == sorted(losses, reverse=True)
    assert "13 steps" in page.get_attribute("#descent svg", "aria-label")


def test_without_the_shift_softmax_overflows_and_with_it_nothing_changes(visit):
    page = visit()
    right = numbers(page, "overflow")[:, 3]
    for offset, word in ((1000, "infinite"), (-1000, "0/0")):
        set_value(page, "#offset", offset)
        rows = numbers(page, "overflow")
        assert np.isnan(rows[:, 2]).any()
        np.testing.assert_allclose(rows[:, 3], right, rtol=1e-12)
        assert word in page.inner_text("#overflow-text")


def test_each_step_of_the_graph_shows_a_number_more_and_says_its_rule(visit):
    page = visit()
    page.focus("#progress")
    page.keyboard.press("Home")
    shown = []
    steps = int(page.get_attribute("#progress", "max"))
    for _ in range(steps):
        page.click("#on")
        shown.append(page.locator("#graph .value, #graph .gradient").count())
        assert len(page.inner_text("#rule")) > 20
    assert shown == sorted(shown)
    assert page.is_visible("text=Done: at the logits arrives y − t")
    page.focus("#graph [data-node] >> nth=3")
    assert "exp" in page.inner_text("#rule")


def test_all_of_it_can_be_reached_by_keyboard_alone(visit):
    page = visit()
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.kind || ''"))
    assert {
        "label",
        "slider",
        "logit",
        "truth",
        "share",
        "add",
        "temperature",
        "keep",
        "progress",
        "step",
        "scale",
    } <= seen
    page.focus("[data-kind=slider][data-class='0']")
    page.keyboard.press("ArrowRight")
    assert numbers(page, "numbers")[0, 0] == pytest.approx(0.4)


def spread(n_classes, temperature, label_smoothing=0.1):
    """Return a problem with as many classes."""
    options = {"temperature": temperature, "label_smoothing": label_smoothing}
    return {"logits": [5.0 - 1.37 * j for j in range(n_classes)], "target": [0, 1], **options}


def read(text):
    """Return a number as the page writes it."""
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_what_is_shown_is_what_its_label_says(visit, width, n_classes):
    page = visit(width)
    for temperature in (0.5, 1, 2):
        problem = spread(n_classes, temperature)
        set_problem(page, problem)
        right = sl.explain(problem["logits"], 1, temperature=temperature, label_smoothing=0.1)
        over = "" if temperature == 1 else " / T"
        shifted, difference = (f"({name}){over}" if over else name for name in ("z − max", "y − t"))
        heads = page.locator("#numbers th[scope=col]").all_inner_texts()
        assert heads == ["class", "z", shifted, "exp", "y", "t", "−t log y", difference]
        columns = (right.logits, right.shifted, np.exp(right.shifted), right.y, right.t, right.terms, right.dx)
        np.testing.assert_allclose(numbers(page, "numbers").T, columns, rtol=1e-12, atol=1e-12)
        assert page.inner_text("section:has(#bars) strong") == difference
        shown = [read(text) for text in page.locator("#bars .gradient").all_text_contents()]
        np.testing.assert_allclose(shown, right.dx, atol=6e-4)
        assert page.locator(".formulas mi:text-is('T'):visible").count() == (3 if over else 0)
        assert f"exp(z{over})" in page.inner_text("#overflow thead")
        moved = numbers(page, "overflow").T
        np.testing.assert_allclose(moved[[0, 1, 3]], [right.logits, np.exp(right.logits / temperature), right.y])


def test_a_small_share_is_not_written_as_0_nor_a_large_one_as_1(visit):
    page = visit()
    set_problem(page, spread(10, 1, 0.01))
    symbols = page.locator("#graph .node text").all_text_contents()
    factors = [read(text[1:]) for text in symbols if len(text) > 1 and text[0] == "×"]
    np.testing.assert_allclose(factors, sl.explain(np.zeros(10), 1, label_smoothing=0.01).t, rtol=0.01)


def test_a_bar_that_moves_away_at_first_is_what_the_page_says(visit):
    page = visit()
    set_problem(page, {"logits": [4.0, 2.9, 0.3], "target": [0, 0, 1], "temperature": 1, "label_smoothing": 0})
    away = [np.abs(numbers(page, "numbers")[:, 3] - [0, 0, 1])]
    for _ in range(12):
        page.click("#step")
        away.append(np.abs(numbers(page, "numbers")[:, 3] - [0, 0, 1]))
    for _ in range(30):
        page.click("#ten")
    assert away[1][1] > away[0][1] + 0.05
    assert np.abs(numbers(page, "numbers")[:, 3] - [0, 0, 1]).max() < 0.01
    says = page.inner_text("section:has(#bars)")
    assert "in the end each y comes to its t" in says
    assert "may move away" in says


CROWDED = """() => [...document.querySelectorAll('svg')].flatMap((svg) => {
    const box = (item) => item.getBoundingClientRect(), frame = box(svg);
    const across = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = (a, b) => Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const texts = [...svg.querySelectorAll('text')];
    const cut = texts.filter((text) => across(box(text), frame) < box(text).width - 0.1
        || down(box(text), frame) < box(text).height - 0.1);
    const others = [...texts, ...svg.querySelectorAll('circle')];
    const covered = texts.flatMap((text) => others.filter((other) => other !== text
        && other.parentNode !== text.parentNode.closest('.node')
        && across(box(text), box(other)) > 1 && down(box(text), box(other)) > 2).map((other) => [text, other]));
    return [...cut.map((text) => 'cut: ' + text.textContent),
            ...covered.map(([a, b]) => a.textContent + ' and ' + (b.textContent || b.outerHTML))];
})"""


@over_widths
@pytest.mark.parametrize("n_classes", [thorough(2), thorough(3), thorough(4), 10])
def test_no_text_is_cut_or_covered(visit, width, n_classes):
    page = visit(width)
    for temperature in (0.5, 2):
        set_problem(page, spread(n_classes, temperature))
        if width >= (1440 if n_classes == 10 else 1024):  # nothing lies outside a region that scrolls
            wider = "all => all.filter(region => region.scrollWidth > region.clientWidth).length"
            assert page.eval_on_selector_all(".scroll", wider) == 0
        page.locator("[data-kind=label] >> nth=0").fill("WWWWWWWWWWWWWWWWWWWW")
        page.click("#step")
        page.click("#keep")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CROWDED) == []
        page.click("#reset")


def test_a_window_made_narrow_does_not_scroll_before_the_pictures_are_drawn_anew(visit):
    page = visit(1440)
    page.add_init_script("window.ResizeObserver = class { observe() {} }")
    page.reload()
    page.set_viewport_size({"width": 360, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("width", [360, 1440])
def test_a_loss_of_any_size_lies_on_the_curve_and_hides_no_text(visit, width):
    page = visit(width)
    for gap in (0, 6, 7.5, 40, 900, 1e6):
        set_problem(page, {"logits": [gap, 0, 0], "target": [0, 1], "temperature": 1, "label_smoothing": 0})
        page.click("#keep")
        assert page.evaluate(CROWDED) == []
        ticks = page.eval_on_selector_all(
            "#curve text.left", "all => all.map(text => [text.textContent, Number(text.getAttribute('y')) - 4])"
        )
        (low, base), (high, top) = ((read(text), y) for text, y in (ticks[0], ticks[-1]))
        loss = float(page.get_attribute("#loss", "data-value"))
        dot = float(page.get_attribute("#curve .dot", "cy"))
        assert low + (base - dot) / (base - top) * (high - low) == pytest.approx(loss, rel=1e-9)


@over_widths
def test_fields_show_all_of_long_numbers_and_names(visit, width):
    page = visit(width)
    numbers = ["-123456.7891", "-1000000", "-1234.56789", "0.123456789", "-0.0000123"]
    for number in numbers:
        page.locator("[data-kind=logit] >> nth=0").fill(number)
        page.locator("[data-kind=label] >> nth=0").fill("WWWWWWWWWWWWWWWWWWWW")
        page.focus("#temperature")
        cut = "all => all.filter(field => field.scrollWidth > field.clientWidth).map(field => field.value)"
        assert page.eval_on_selector_all("input[type=number], input[type=text]", cut) == []
        wider = "['html', '.scroll:has(#classes)'].map((name) => document.querySelector(name))"
        assert page.evaluate(f"{wider}.every((place) => place.scrollWidth <= place.clientWidth)")


@pytest.mark.parametrize("n_classes", [thorough(2), 10])
def test_on_a_phone_the_circle_of_each_step_comes_into_sight(visit, n_classes):
    page = visit(360)
    set_problem(page, spread(n_classes, 2))
    page.focus("#progress")
    page.keyboard.press("Home")
    page.click("#on")
    steps = int(page.get_attribute("#progress", "max")) - 1
    places = page.evaluate(
        """steps => Array.from({length: steps}, (_, k) => {
            if (k) document.querySelector('#on').click();
            const now = document.querySelector('#graph .now');
            const {left, right} = now.getBoundingClientRect();
            return [left, right, now.closest('.scroll').scrollLeft];
        })""",
        steps,
    )
    assert all(left >= 0 and right <= 360 for left, right, _ in places), places
    assert len({scrolled for *_, scrolled in places}) > 2  # which would not be so without scrolling


@pytest.mark.parametrize("scheme", ["light", "dark"])
@over_widths
def test_there_are_no_violations_of_the_rules_of_accessibility(visit, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(width, color_scheme=scheme)
    page.click("#step")
    results = axe.run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.thorough  # other tests beside this one would take its time
def test_a_change_is_drawn_within_a_frame(visit):
    page = visit()
    for _ in range(7):
        page.click("#add")
    took = page.evaluate("""() => Array.from({length: 60}, (_, k) => {
        const slider = document.querySelector('[data-kind=slider]'), start = performance.now();
        slider.value = k / 10;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        document.body.offsetHeight;
        return performance.now() - start;
    })""")
    assert np.quantile(took, 0.1) < 16


def test_the_page_is_small_and_a_notebook_can_hold_it():
    page = sl.explore()
    assert len(page.html.encode()) < 150_000
    assert "http://" not in page.html.replace("http://www.w3.org", "")
    assert "https://" not in page.html
    assert "srcdoc=" in page._repr_html_()
    assert "<script>" not in page._repr_html_()


def test_the_command_writes_the_page_and_no_other_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["explore", "--no-open"]) == 0
    assert Path("softmaxloss-explorer.html").read_text() == sl.explore().html
    assert "wrote softmaxloss-explorer.html" in capsys.readouterr().out
    Path("mine.html").write_text("mine")
    for out, message in (
        ("mine.html", "not written by this command"),
        ("page.txt", ".html"),
        ("no/page.html", "folder"),
    ):
        assert main(["explore", "--no-open", "--out", out]) == 2
        assert message in capsys.readouterr().err
