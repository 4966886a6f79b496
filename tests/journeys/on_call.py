"""Somebody new on call: signs in, goes only where the pages lead, by mouse or by keyboard, and what they do is counted."""

import re

from tests.broker_process import ROOT, wait_until

FOCUS_IS_SEEN = """() => {
  const style = getComputedStyle(document.activeElement);
  const box = document.activeElement.getBoundingClientRect();
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
    && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
}"""
MOST_TABS = 200
EVERYBODY_KNOWS = {"Sign in", "Overview"}


def told_in_the_runbook():
    """Answer what the runbook prints bold of the six nights, numbers left out."""
    nights = (ROOT / "docs" / "runbook.md").read_text().partition("## Six nights")[2].partition("\n## ")[0]
    return {without_numbers(bold) for bold in re.findall(r"\*\*(.+?)\*\*", nights, re.DOTALL)}


def without_numbers(text):
    return re.sub(r"\d+", "1", " ".join(text.split()))


class Mouse:
    """Clicks what is seen."""

    def __init__(self, tab):
        self.tab = tab

    def press(self, target):
        target.click()

    def write(self, target, text):
        target.fill(text)

    def choose(self, target, label):
        target.select_option(label)


class Keys:
    """Has no mouse: Tab until it is there, Enter; the focus must be seen on the way."""

    def __init__(self, tab):
        self.tab = tab

    def press(self, target):
        self._go_to(target)
        self.tab.keyboard.press("Enter")

    def write(self, target, text):
        self._go_to(target)
        self.tab.keyboard.press("Control+a")
        self.tab.keyboard.type(text)

    def choose(self, target, label):
        self._go_to(target)
        self.tab.keyboard.type(label)

    def _go_to(self, target):
        for _ in range(MOST_TABS):
            # What is renewed under the hand has another element each time.
            if target.evaluate("element => element === document.activeElement"):
                assert self.tab.evaluate(FOCUS_IS_SEEN), f"the focus on {target} cannot be seen"
                return
            self.tab.keyboard.press("Tab")
        raise AssertionError(f"{target} cannot be reached by keyboard")


class OnCall:
    """A tab, a hand, and a record of what was pressed and which pages were seen."""

    def __init__(self, context, hand=Mouse):
        self.tab = context.new_page()
        self.hand = hand(self.tab)
        self.pressed, self.words, self.pages, self.said = [], [], [], []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("framenavigated", lambda frame: self.pages.append(frame.url.rpartition("/")[2]))

    def sign_in(self, name, password):
        """Open the broker's address, the only one that is ever typed."""
        self.tab.goto("/")
        self.hand.write(self.tab.get_by_label("Name"), name)
        self.hand.write(self.tab.get_by_label("Password"), password)
        self.press("button", "Sign in")
        self.sees("Today")

    def press(self, role, name, *, within=None, exact=False):
        """Press what is seen under a name."""
        target = (within or self.tab).get_by_role(role, name=name, exact=exact).first
        target.wait_for()
        self.pressed.append(f"{role} “{name}”")
        self.words.append(without_numbers(target.inner_text()))
        self.hand.press(target)

    def write(self, label, text, *, within=None):
        """Write into a field."""
        self.hand.write((within or self.tab).get_by_label(label).first, text)

    def choose(self, label, option):
        """Choose from a list."""
        self.hand.choose(self.tab.get_by_role("combobox", name=label, exact=True), option)

    def find(self, text):
        """Use the box on top of every page."""
        box = self.tab.get_by_role("searchbox", name="Find")
        self.hand.write(box, text)
        self.tab.keyboard.press("Enter")
        self.pressed.append("Enter in Find")

    def sees(self, *texts, timeout_s=90):
        """Wait until the page says all this."""
        for text in texts:
            self.tab.locator("body").get_by_text(text).locator("visible=true").first.wait_for(
                timeout=timeout_s * 1000
            )

    def looks_again(self, text, *, timeout_s=60):
        """Reload until the page says this, as people do."""

        def is_there():
            self.tab.reload()
            return self.tab.locator("main").get_by_text(text).locator("visible=true").count() > 0

        wait_until(is_there, timeout_s=timeout_s, what=text)

    def is_done(self, *, presses=8):
        """End the journey: the console was silent, it took few presses, and the runbook names them."""
        self.tab.close()
        print(f"{len(self.pressed)} presses, {len(self.pages)} pages: {', '.join(self.pressed)}")
        assert self.said == []
        assert len(self.pressed) <= presses, self.pressed
        if isinstance(self.hand, Mouse):
            told = told_in_the_runbook() | EVERYBODY_KNOWS
            untold = [text for text in self.words if not any(bold in text for bold in told)]
            assert not untold, f"docs/runbook.md does not name {untold}"
