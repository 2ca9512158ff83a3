"""The page of `nano-exp report` in Chromium: no errors, the store's numbers, and what can be done with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import results_case
from pace import limit

from nano_exp import cli
from nano_exp.results import load_results
from nano_exp.results.ranking import Ranking, rank

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER) and "NANO_EXP_REQUIRE_SLURM" not in os.environ:
    pytest.skip("Debian's chromium and chromium-driver are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    results = results_case.make(folder)
    assert cli.main(["report", "lr_sweep", "--results", str(results), "-o", str(folder / "report.html")]) == 0
    return results


@pytest.fixture(scope="module")
def ranking(store: Path) -> Ranking:
    return rank(load_results(store, ["lr_sweep"]))


@pytest.fixture(scope="module")
def browser(store: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_window_size(1280, 1000)
        driver.get((store.parent / "report.html").as_uri())
        until(driver, "return document.documentElement.dataset.ready")
        yield driver
    finally:
        driver.quit()


def until(browser: Any, script: str) -> Any:
    """Wait until a script returns something true."""
    return WebDriverWait(browser, limit(60), poll_frequency=0.1).until(lambda driver: driver.execute_script(script))


def chart(browser: Any, title: str) -> Any:
    """A chart by its caption, scrolled to and drawn."""
    figure = browser.find_element(By.XPATH, f"//figure[figcaption='{title}']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    place = figure.find_element(By.CLASS_NAME, "plot")
    WebDriverWait(browser, limit(60), poll_frequency=0.1).until(
        lambda driver: driver.execute_script("return arguments[0].data && arguments[0].data.length > 0", place)
    )
    return place


def column(browser: Any, table: str, place: int) -> list[str]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"#{table} tbody td:nth-child({place})")
    return [cell.text for cell in cells]


def test_the_table_has_the_rankings_numbers_and_sorts(browser: Any, ranking: Ranking) -> None:
    means = [f"{standing.mean:.4g}" for standing in ranking.standings]
    assert column(browser, "ranking", 4) == means
    button = browser.find_element(By.XPATH, "//div[@id='ranking']//th/button[text()='reward']")
    button.click()
    assert column(browser, "ranking", 4) == means[::-1]
    button.click()
    assert column(browser, "ranking", 4) == means
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"


def test_the_table_is_filtered_by_words(browser: Any) -> None:
    box = browser.find_element(By.CSS_SELECTOR, "#ranking input")
    box.send_keys("lr=0.00003")
    assert len(column(browser, "ranking", 1)) == 2
    box.clear()
    box.send_keys(" ")
    assert len(column(browser, "ranking", 1)) == 8


def test_the_heat_map_frames_the_best_cell(browser: Any, ranking: Ranking) -> None:
    place = chart(browser, "reward: each point, the best one framed")
    z, frame = browser.execute_script("return [arguments[0].data[0].z, arguments[0].layout.shapes[0]]", place)
    values = sorted(value for row in z for value in row)
    assert values == pytest.approx(sorted(standing.mean for standing in ranking.standings))
    best = z[round(frame["y0"] + 0.48)][round(frame["x0"] + 0.49)]
    assert best == pytest.approx(ranking.standings[0].mean)


def test_curves_are_toggled_hovered_zoomed_and_unsmoothed(browser: Any, ranking: Ranking) -> None:
    place = chart(browser, "reward")
    names = "return arguments[0].data.filter((t) => t.name).map((t) => t.name)"
    assert len(browser.execute_script(names, place)) == 8
    button = browser.find_element(By.CSS_SELECTOR, ".legend button")
    gone = button.text
    button.click()
    until(browser, "return document.querySelector('.legend button').getAttribute('aria-pressed') === 'false'")
    assert gone not in browser.execute_script(names, place)
    button.click()

    browser.execute_script(
        "const s = document.getElementById('smooth'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    drawn = browser.execute_script("return arguments[0].data.find((t) => t.name).y", place)
    runs = ranking.standings[0].point.runs
    mean = [sum(values) / 3 for values in zip(*(run.metrics.series("reward").values for run in runs), strict=True)]
    assert drawn == pytest.approx(mean, rel=1e-5)

    axis = "return arguments[0]._fullLayout.xaxis.range"
    before = browser.execute_script(axis, place)
    layer = place.find_element(By.CSS_SELECTOR, ".nsewdrag")
    ActionChains(browser).move_to_element(layer).pause(0.3).perform()
    WebDriverWait(browser, limit(20)).until(lambda driver: place.find_elements(By.CSS_SELECTOR, ".hovertext"))
    ActionChains(browser).move_to_element(layer).click_and_hold().move_by_offset(60, 5).release().perform()
    WebDriverWait(browser, limit(20)).until(lambda driver: driver.execute_script(axis, place) != before)
    after = browser.execute_script(axis, place)
    assert after[1] - after[0] < before[1] - before[0]


def test_curves_are_drawn_over_gpu_hours_and_run_by_run(browser: Any) -> None:
    place = chart(browser, "validation accuracy")
    browser.execute_script(
        "const s = document.getElementById('over'); s.value = 'gpu-hours'; s.dispatchEvent(new Event('change'))"
    )
    last = browser.execute_script("return Math.max(...arguments[0].data[1].x)", place)
    assert last == pytest.approx(8.67, abs=0.1)  # 100 steps of 36 s and 300 s of set-up, on 8 GPUs
    browser.find_element(By.ID, "each").click()
    until(browser, "return document.querySelectorAll('.legend button').length === 24")


def test_it_is_readable_on_a_phone_in_the_dark_and_in_print(browser: Any) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) < 60
        until(browser, "return document.documentElement.scrollWidth <= 390")  # once the plots have been laid out anew
        assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 20_000
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_console_has_no_errors(browser: Any) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
