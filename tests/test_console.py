"""What is printed: text from data as it is, in every encoding, and pictures whose titles are no formulas."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from slot_rl import console
from slot_rl.plots import plain_text, plot_fit

AWKWARD = ("c1cc[nH]c1", "[/b] x", "[red]r[/red]", "a :smile: b", "\\[x]")


def test_text_from_data_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for text in AWKWARD:
        console.print_table(text, [text, text], [[text, text]])
        console.say(text)
        with console.progress_bar() as progress:
            progress.add_task(text, total=1, note=text)
        assert capsys.readouterr().out.count(text) >= 6


def test_messages_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("expected a name, got '[/b] :smile:'")

    assert console.run(fail) == 2
    assert capsys.readouterr().err == "error: expected a name, got '[/b] :smile:'\n"


def test_a_letter_that_the_stream_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding="ascii", write_through=True))
    assert console.run(lambda: print("written: größe")) == 0
    assert kept.getvalue() == b"written: gr??e\n"


def test_a_title_is_no_formula(tmp_path: Path) -> None:
    assert plain_text("rates_$_to_$.csv") == r"rates_\$_to_\$.csv"
    plot_fit(tmp_path / "fit.png", np.arange(3.0), np.arange(3.0), "rates_$_to_$.csv")
    assert (tmp_path / "fit.png").stat().st_size > 0
