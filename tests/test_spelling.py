"""Suggestions for names that are not known."""

from slot_rl.spelling import missing_column, nearest, unknown


def test_the_nearest_name_is_suggested_whatever_its_case() -> None:
    known = ["gumbel", "gumbel_rao", "PPO"]
    assert nearest("gumble", known) == "; did you mean 'gumbel'?"
    assert nearest("ppo", known) == "; did you mean 'PPO'?"
    assert nearest("nothing like it", known) == nearest("x", []) == ""


def test_messages_name_expected_and_actual() -> None:
    assert (
        unknown("expected one of", ["red", "blue"], "blu")
        == "expected one of red, blue, got 'blu'; did you mean 'blue'?"
    )
    assert (
        missing_column("yeild", ["yield"], "t.csv")
        == "expected a column 'yeild' in t.csv, got 'yield'; did you mean 'yield'?"
    )
