"""The page in a real browser; skipped where Debian's chromium and its driver are not installed."""

import json
import shutil

import pages
import pytest

from benchmark.reports.boards import document
from benchmark.reports.boards.cost import costs
from benchmark.reports.page import cost_page, page
from benchmark.reports.published import tables

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
NASTY = "<script>document.title='broken'</script>"
WIDE, PHONE = (1280, 900), (360, 780)

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """index.html and cost.html of a task with label fractions and one without."""
    folder = tmp_path_factory.mktemp("site")
    files = pages.files_of(methods={**pages.METHODS, NASTY: 0.05})
    many = {"targets": tuple(f"t{i}" for i in range(10)), "fractions": (1.0,), "head": "none"}
    search = pages.files_of("search", metrics=("P@10", "P@1", "P@5"), **many)
    boards = [
        document(files, pages.info_of(files), None),
        document(search, pages.info_of(search, "search", "Search", "none"), None),
    ]
    (folder / "index.html").write_text(page(boards, tables()), encoding="utf-8")
    (folder / "cost.html").write_text(cost_page(boards, costs(files + search)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


@pytest.fixture
def browser(driver, site):
    """An empty tab of the wide size that opens a page by name and address."""

    def opened(name="index.html", address="", size=WIDE, dark=False):
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get("about:blank")
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(f"{(site / name).as_uri()}#{address}")
        return driver

    return opened


def shown(driver):
    """Keys and texts of the views in sight."""
    return driver.execute_script(
        """return [...document.querySelectorAll(".block")].filter(b => b.offsetParent)
             .map(b => [b.className.split(" ")[1], {...b.dataset}])"""
    )


def press(driver, key, value):
    driver.execute_script(
        "document.querySelector(`.switch[data-key='${arguments[0]}'] "
        "button[data-value='${arguments[1]}']`).click()",
        key,
        value,
    )


def column(driver, name, body=0):
    """Texts of a column of the main table in sight, within one block."""
    return driver.execute_script(
        """const table = [...document.querySelectorAll(".main")].find(t => t.offsetParent);
           const rows = [...table.tBodies[arguments[1]].rows].slice(1);
           return rows.map(r => r.querySelector(`.${arguments[0]}`).firstChild.data.trim())""",
        name,
        body,
    )


def test_nothing_is_wrong_nothing_is_fetched_and_a_name_runs_no_script(browser):
    for name in ("index.html", "cost.html"):
        driver = browser(name)
        assert driver.title.endswith("simulated-smoke")
        assert [x for x in driver.get_log("browser") if x["level"] != "INFO"] == []
        messages = [json.loads(x["message"])["message"] for x in driver.get_log("performance")]
        urls = {
            message["params"]["request"]["url"].partition("#")[0]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }
        assert {url.rpartition("/")[2] for url in urls} == {name}
        assert all(url.startswith("file:") for url in urls)
        assert NASTY in driver.find_element("tag name", "main").get_attribute("textContent")


def test_tables_are_sorted_within_their_blocks(browser):
    driver = browser()
    sort = """const table = [...document.querySelectorAll(".main")].find(t => t.offsetParent);
              const th = table.querySelector("thead ." + arguments[0]);
              th.querySelector("button").click();
              return [...table.querySelectorAll("[aria-sort]")].map(
                x => [x.className, x.getAttribute("aria-sort")])"""
    first = column(driver, "value")
    assert first == sorted(first, key=lambda x: -float(x.split()[0]))
    assert driver.execute_script(sort, "value") == [["value", "ascending"]]
    assert column(driver, "value") == first[::-1]
    assert driver.execute_script(sort, "method") == [["method", "ascending"]]
    names = column(driver, "method")
    assert names == sorted(names, key=str.lower)
    assert set(names) == {*pages.METHODS, NASTY}
    assert set(column(driver, "method", 1)) == set(pages.LABELLED)
    assert column(driver, "method", 2) == sorted(pages.REFERENCES)
    assert driver.execute_script(sort, "difference") == [["difference", "descending"]]
    values = column(driver, "difference")
    assert values[-1] == "reference"  # what is no number comes last, either way
    numbers = [float(x.split()[0]) for x in values[:-1]]
    assert numbers == sorted(numbers, reverse=True)
    driver.execute_script(sort, "difference")
    assert column(driver, "difference")[-1] == "reference"


def test_switches_show_one_view_with_its_curves_and_tell_the_address(browser):
    driver = browser()
    at = {"task": "toy", "modality": "ecg", "head": "linear"}
    assert shown(driver) == [["view", at | {"fraction": "1"}], ["curves", at]]
    press(driver, "fraction", "0.1")
    assert shown(driver) == [["view", at | {"fraction": "0.1"}], ["curves", at]]
    assert "fraction=0.1" in driver.current_url
    tenth = column(driver, "value")
    press(driver, "task", "search")
    search = {"task": "search", "modality": "ecg", "fraction": "1", "head": "none"}
    assert shown(driver) == [["view", search], ["curves", search]]
    assert not driver.find_element("css selector", "[data-key=fraction]").is_displayed()
    assert column(driver, "value") != tenth
    press(driver, "task", "toy")
    assert column(driver, "value") == tenth  # the fraction is remembered
    press(driver, "task", "published")
    press(driver, "table", "PTACL Table 1")
    assert shown(driver) == [["published", {"task": "published", "table": "PTACL Table 1"}]]
    driver.back()
    driver.back()
    assert shown(driver)[0][1]["task"] == "toy"


def test_a_link_to_a_view_opens_it(browser):
    driver = browser(address="task=toy&fraction=0.01")
    assert shown(driver)[0][1]["fraction"] == "0.01"
    pressed = driver.find_elements("css selector", "button[aria-pressed=true]")
    assert [b.text for b in pressed if b.is_displayed()] == ["Toy task", "1% of labels"]
    driver = browser(address="task=gone&fraction=7")
    assert shown(driver)[0][1]["task"] == "toy"


@pytest.mark.parametrize("address", ["task=toy", "task=search", "task=published"])
@pytest.mark.parametrize("name", ["index.html", "cost.html"])
def test_a_telephone_scrolls_downwards_only(browser, name, address):
    driver = browser(name, address, size=PHONE)
    script = "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    driver.execute_script("document.querySelectorAll('details').forEach(x => (x.open = true))")
    content, window = driver.execute_script(script)
    assert content == window <= PHONE[0]
    # Tables wider than the screen scroll within a region that the keyboard reaches.
    wide = """return [...document.querySelectorAll("table")].filter(t => t.offsetParent).map(t =>
        [t.parentElement.className, t.parentElement.tabIndex, t.parentElement.ariaLabel])"""
    for kind, reached, label in driver.execute_script(wide):
        assert (kind, reached) == ("scroll", 0)
        assert label


def test_the_keyboard_reaches_the_controls_and_works_them(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver = browser()
    reached = []
    for _ in range(40):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        active = driver.switch_to.active_element
        reached.append((active.tag_name, active.text))
        outline = active.value_of_css_property("outline-style")
        assert outline not in ("none", ""), f"{reached[-1]} shows no focus"
        if active.text == "10% of labels":
            ActionChains(driver).send_keys(Keys.ENTER).perform()
        if active.text.startswith("difference to mae"):
            ActionChains(driver).send_keys(Keys.SPACE).perform()
            break
    assert reached[0] == ("a", "Skip to the results")
    assert shown(driver)[0][1]["fraction"] == "0.1"
    assert active.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


@pytest.mark.nightly
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("index.html", "task=toy"),
        ("index.html", "task=search"),
        ("index.html", "task=published"),
        ("cost.html", "task=toy"),
    ],
)
def test_axe_finds_no_barrier(browser, name, address, dark):
    """WCAG 2.1 A and AA, contrast included."""
    axe = pytest.importorskip("axe_core_python.selenium", reason="needs axe-core-python").Axe()
    driver = browser(name, address, dark=dark)
    driver.set_script_timeout(300)
    driver.execute_script("document.querySelectorAll('details').forEach(x => (x.open = true))")
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = axe.run(driver, options=rules)["violations"]
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]][:5]) for v in found] == []


def test_without_scripts_every_view_is_there_to_read(browser, driver):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        text = browser().find_element("tag name", "body").text
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Without JavaScript all views follow one another" in text
    for part in ("100% of labels", "1% of labels", "P@k against k", "PTACL Table 1"):
        assert part in text
