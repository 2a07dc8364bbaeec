"""The page in a real Chromium: upload, drag, read, save, play, be refused; by mouse, by keyboard, on a phone."""

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: requirements-web.txt")

import httpx
from visdom_tools import chromium, wait_for
from web_tools import PATIENCE, Nginx, WebServer, bomb, encoded, faceless, photo, two_faces

from cyclegan_age.inference import demo_portrait

MILLISECONDS = 1000.0 * PATIENCE
PROJECT = Path(__file__).resolve().parent.parent
SHOTS = os.environ.get("CYCLEGAN_AGE_SCREENSHOTS")  # a folder, where somebody wants to look at them


@contextmanager
def opened(web: WebServer | Nginx, width: int, height: int, *flags: str) -> Iterator[Any]:
    """The page as it is after loading. An error on the console, or a request to another server, fails the test.

    Args:
        web: the server.
        width: of the window, in pixels.
        height: of it.
        flags: more for the browser's command line.
    """
    with chromium(*flags) as page:
        wrong: list[str] = []
        page.set_default_timeout(MILLISECONDS)
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        own = (f"{web.url}/", "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
        page.goto(f"{web.url}/", timeout=MILLISECONDS)
        page.wait_for_selector("#strip figure")
        yield page
        assert wrong == []


def upload(page: Any, data: bytes, name: str = "me.jpg", picker: int = 0) -> None:
    """Choose a file."""
    chooser = page.locator("input[type=file]").nth(picker)
    chooser.set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})


def said(page: Any, text: str) -> str:
    """The page's line, as soon as it has this in it."""
    line = page.locator(".said p", has_text=text)
    line.wait_for()
    return str(line.inner_text())


def slider(page: Any) -> Any:
    return page.get_by_role("slider", name="Age in years")


def picture(page: Any, selector: str) -> np.ndarray:
    """The pixels of a picture that the page holds."""
    script = """async ([selector]) => {
        const i = document.querySelector(selector);
        await i.decode();
        const c = document.createElement('canvas');
        c.width = i.naturalWidth; c.height = i.naturalHeight;
        c.getContext('2d').drawImage(i, 0, 0);
        return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].concat([c.width]);
    }"""
    *values, width = page.evaluate(script, [selector])
    return np.array(values, np.uint8).reshape(-1, width, 4)[..., :3]


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def test_from_the_upload_to_the_game(web: WebServer) -> None:
    with opened(web, 1280, 900) as page:
        assert page.title() == "Faces by age"
        said(page, "An example, until you choose a photograph. Estimated age")
        upload(page, photo())
        page.wait_for_selector(".view img")
        years = int(said(page, "Estimated age").rpartition(" ")[2].rstrip("."))
        assert 25 <= years <= 55

        # the slider answers while it is dragged
        pair = page.locator("#pair .then")
        box = slider(page).bounding_box()
        y = box["y"] + box["height"] / 2
        seen = []
        page.mouse.move(box["x"] + box["width"] - 8, y)
        page.mouse.down()
        for share in (0.1, 0.5, 0.9):
            page.mouse.move(box["x"] + share * box["width"], y, steps=3)
            wanted = f"at {slider(page).input_value()} years"
            wait_for(pair.inner_text, lambda text, wanted=wanted: text == wanted, PATIENCE)  # type: ignore[misc]
            seen.append(picture(page, "#pair img:not(.before)"))
        page.mouse.up()
        before = picture(page, "#pair img.before")
        assert before.shape == seen[0].shape
        assert abs(seen[0].astype(int) - seen[2]).mean() > 1, "other ages look different"
        assert abs(seen[2].astype(int) - before).mean() < 40, "and all like the same person"
        shot(page, "desktop")

        assert not page.get_by_role("spinbutton").is_visible(), "half a number typed would be refused"

        # every age, the own one framed
        captions = page.locator("#strip figcaption").all_inner_texts()
        assert [text.split(",")[0] for text in captions] == ["10", "20", "30", "40", "50", "60", "70"]
        assert [text for text in captions if "own age" in text] == page.locator(
            "#strip .own figcaption"
        ).all_inner_texts()
        assert page.locator("#strip .own").count() == 1

        # the whole photograph, and the file that is saved
        page.get_by_role("button", name="Age the photograph").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Save at-").click()
        saved = Image.open(download.value.path())
        assert (saved.format, saved.size) == ("JPEG", (512, 512))
        assert download.value.suggested_filename == f"at-{slider(page).input_value()}.jpg"
        change = abs(np.asarray(saved).astype(int) - np.asarray(Image.open(io.BytesIO(photo()))))
        assert 4 * change[300:].mean() < change[70:180, 170:280].mean() > 1

        page.get_by_role("tab", name="Life").click()
        page.get_by_role("button", name="Render the life").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Save life.mp4").click()
        with av.open(str(download.value.path())) as film:
            assert sum(1 for _ in film.decode(video=0)) == 73

        page.get_by_role("tab", name="Layers").click()
        page.get_by_role("button", name="Show its feature maps").click()
        page.get_by_role("img", name="Channels of").wait_for()

        page.get_by_role("tab", name="Games").click()
        page.get_by_role("button", name="Play").click()
        page.locator("#played .wrong", has_text="Choose a second face first").wait_for()
        upload(page, encoded(demo_portrait().transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "other.png", picker=1)
        page.get_by_role("button", name="Play").click()
        said(page, "From the first face to the second")
        assert page.locator("#played figure").count() == 9
        assert page.locator("#played video").count() == 1
        shot(page, "desktop-game")

        # what is refused is said, and the page goes on
        upload(page, b"hello\n" * 50, "<b>text</b>.txt")
        said(page, "Not a picture; expected a JPEG")
        assert page.locator(".drop b").count() == 0, "names are text, not HTML"
        upload(page, bomb(), "bomb.png")
        said(page, "Far too many pixels, more than 4 million")
        upload(page, faceless())
        said(page, "No face found")
        assert page.locator("#strip figure").count() == 0
        page.get_by_role("tab", name="Photograph").click()
        page.get_by_role("button", name="Age the photograph").click()
        page.locator("#photo .wrong", has_text="No face found").wait_for()
        page.get_by_role("tab", name="Life").click()
        page.get_by_role("button", name="Render the life").click()
        page.locator("#life .wrong", has_text="The session keeps no face; choose a photograph").wait_for()
        upload(page, bytes(3_000_000))
        page.get_by_text("Not taken: larger than 2 MB.").wait_for()
        upload(page, two_faces())
        said(page, "Estimated age")
        page.get_by_role("radio", name="2").check()
        wait_for(lambda: picture(page, "#pair img.before").shape, bool, PATIENCE)
        assert page.get_by_role("radio", name="1").count() == 1
        shot(page, "desktop-two-faces")
    assert web.files() == [], "no file is left of all that"


def test_by_keyboard_and_with_a_name_for_everything(web: WebServer) -> None:
    with opened(web, 1280, 900) as page:
        focused = []
        for _ in range(20):
            page.keyboard.press("Tab")
            focused.append(
                page.evaluate(
                    """() => { const e = document.activeElement;
                    return (e.getAttribute('aria-label') ?? e.labels?.[0]?.innerText ?? e.innerText ?? '').trim(); }"""
                )
            )
        order = [
            "Choose a photograph",
            "Camera",
            "It is an aligned",
            "range slider for Age",
            "Before and after",
            "Photograph",
        ]
        reached = [next((i for i, name in enumerate(focused) if name.startswith(one)), None) for one in order]
        assert None not in reached, focused
        assert reached == sorted(reached), focused  # type: ignore[type-var]
        assert any(name.startswith("Age the photograph") for name in focused)

        nameless = page.evaluate(
            """() => [...document.querySelectorAll('input, button, select, textarea, img, video, a[href]')].filter(e =>
                e.checkVisibility() && !(e.getAttribute('aria-label') || e.alt || e.labels?.length
                || e.innerText?.trim() || e.closest('label')?.innerText.trim())).map(e => e.outerHTML.slice(0, 120))"""
        )
        assert nameless == []
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator(".said [aria-live=polite]").count() == 1

        slider(page).focus()
        page.keyboard.press("Home")
        wait_for(page.locator("#pair .then").inner_text, lambda text: text == "at 10 years", PATIENCE)
        page.get_by_role("slider", name="Before and after").focus()
        page.keyboard.press("End")
        assert "100%" in page.locator(".pair").get_attribute("style")


def test_on_a_phone_nothing_is_wider_than_the_screen(web: WebServer) -> None:
    with opened(web, 390, 844) as page:
        upload(page, photo())
        page.wait_for_selector(".view img")
        for tab in ("Life", "Games", "Layers", "Photograph"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        page.get_by_role("button", name="Age the photograph").click()
        page.wait_for_selector("#photo img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.evaluate(
            """() => [...document.querySelectorAll('main button:not([tabindex="-1"]), .drop label, a.save')].filter(
                e => e.checkVisibility() && e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"""
        )
        assert small == [], "large enough for a finger"
        shot(page, "phone")


def test_pages_of_several_people_do_not_mix(web: WebServer) -> None:
    one = Image.open(io.BytesIO(photo()))
    other = one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with opened(web, 800, 800) as page:
        second = page.context.browser.new_page()
        second.set_default_timeout(MILLISECONDS)
        second.goto(web.url, timeout=MILLISECONDS)
        second.wait_for_selector("#strip figure")
        for shown, image in ((page, one), (second, other)):
            upload(shown, encoded(image, "JPEG"))
            shown.wait_for_selector(".view img")
        for shown in (page, second):
            slider(shown).press("ArrowLeft")
        for shown in (page, second):
            wait_for(shown.locator("#pair .then").inner_text, lambda text: text == "at 69 years", PATIENCE)
        first, mirrored = picture(page, "#pair img.before").astype(int), picture(second, "#pair img.before")
        assert abs(first - mirrored[:, ::-1]).mean() < 0.75 * abs(first - mirrored).mean()


def test_a_picture_is_dropped_or_pasted(web: WebServer) -> None:
    give = """([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], `${kind}.jpg`, { type: 'image/jpeg' }));
        const event = kind === 'drop' ? new DragEvent('drop', { dataTransfer: transfer, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true });
        (kind === 'drop' ? document.querySelector('.drop') : document).dispatchEvent(event);
    }"""
    with opened(web, 800, 800) as page:
        for kind, data in (("drop", two_faces()), ("paste", photo())):
            page.evaluate(give, [kind, base64.b64encode(data).decode()])
            page.locator(".drop .name", has_text=f"{kind}.jpg").wait_for()
            wait_for(page.locator(".view img").count, bool, PATIENCE)
            several = page.get_by_role("radio", name="2")
            wait_for(several.is_visible, lambda seen, kind=kind: seen == (kind == "drop"), PATIENCE)  # type: ignore[misc]


def test_the_camera_takes_a_picture(web: WebServer, tmp_path: Path) -> None:
    film = tmp_path / "film.mjpeg"
    film.write_bytes(photo() * 30)
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with opened(web, 800, 800, *camera, f"--use-file-for-fake-video-capture={film}") as page:
        take = page.get_by_role("button", name="Take the picture")
        assert not take.is_visible()
        page.get_by_role("button", name="Camera").click()
        take.click()
        page.locator(".drop .name", has_text="Picture taken.").wait_for()
        page.wait_for_selector(".view img")
        assert not take.is_visible()
        assert page.evaluate("document.querySelector('video').srcObject") is None, "the camera is off again"
        assert picture(page, "#pair img.before").std() > 20


def test_models_are_chosen_and_an_autoencoder_has_kids(web: WebServer) -> None:
    with opened(web, 1280, 900) as page:
        upload(page, photo())
        page.wait_for_selector(".view img")
        before = picture(page, "#pair img:not(.before)")
        page.get_by_role("tab", name="Games").click()
        kids = page.get_by_role("radio", name="Kids: children of the two faces")
        assert kids.count() == 0
        page.get_by_role("combobox", name="Model").click()
        page.get_by_role("option", name="caae").click()
        kids.check()
        wait_for(
            lambda: (
                np.array_equal(picture(page, "#pair img:not(.before)"), before),
                page.locator(".said p, .toast-body").all_inner_texts(),
            ),
            lambda now: not now[0],
            PATIENCE,
        )
        wait_for(slider(page).input_value, lambda years: years == "60", PATIENCE)  # the oldest age of caae
        assert kids.is_checked(), "chosen while the new model was still being shown"
        upload(page, photo(), "other.jpg", picker=1)
        page.get_by_role("button", name="Play").click()
        page.locator("#played figcaption", has_text="kid 1").wait_for()
        shot(page, "kids")


@pytest.mark.parametrize("way", ["as documented", "path left in", "host forwarded"])
def test_page_below_a_path_of_a_proxy(web: WebServer, tmp_path: Path, way: str) -> None:
    documentation = (PROJECT / "docs" / "web.md").read_text(encoding="utf-8")
    location = documentation[documentation.index("location /aging/ {") :].partition("```")[0]
    if way == "path left in":
        location = location.replace(":7860/;", ":7860;")
    elif way == "host forwarded":
        location = location.replace("Host $http_host", "X-Forwarded-Host $http_host")
    proxy = Nginx(tmp_path, web, location)
    try:
        with opened(proxy, 1280, 900) as page:
            colour = "getComputedStyle(document.querySelector('button.primary')).backgroundColor"
            assert page.evaluate(colour) != "rgba(0, 0, 0, 0)", "the style sheets are there"
            upload(page, photo())
            said(page, "Estimated age of the face: about")
            before = picture(page, "#pair img:not(.before)")
            slider(page).focus()
            page.keyboard.press("Home")
            wait_for(lambda: picture(page, "#pair img:not(.before)"), lambda now: not np.array_equal(now, before))
            page.get_by_role("button", name="Age the photograph").click()
            said(page, "The photograph is ready.")
        form = {"image": ("me.jpg", photo())}
        answer = httpx.post(f"{proxy.url}/api/age", files=form, data={"target_age": "60"}, timeout=PATIENCE)
        assert answer.content == web.post("/api/age", photo(), target_age="60").content
    finally:
        proxy.stop()


def test_page_says_that_a_photograph_is_turned(web: WebServer) -> None:
    with opened(web, 1280, 900) as page:
        upload(page, encoded(Image.open(io.BytesIO(photo())).rotate(180), "JPEG"))
        said(page, "The face is rotated clockwise by 180 degrees; the picture is not rotated.")
