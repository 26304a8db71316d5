"""The page of a study: every arm in table and plot, names escaped, and what cannot be compared is said."""

import xml.etree.ElementTree as ElementTree

from reports.frontier import Arm
from reports.study import Study, markdown, plot


def study():
    arms = [
        Arm(policy, rate, seed, target - 200 * rate + 0.01 * seed, retention + 100 * rate, kept)
        for policy, target, retention, kept in (("full", 2.0, 1.0, 1.0), ("random", 2.02, 1.0, 0.7), ("a < b", 1.95, 0.97, 0.7))
        for rate in (1e-3, 5e-4)
        for seed in (0, 1)
    ]
    return Study((2.5, 0.9), (*arms, Arm("beyond", 1e-3, 0, 1.0, 9.0, 0.5)), 10.0, 2.0)


def test_the_table_has_a_row_for_every_policy_a_column_for_every_rate_and_a_verdict():
    text = markdown(study())
    assert text.startswith("**Masks beat the frontier on this data: ")
    assert "| policy | kept | learning rate 0.001 | learning rate 0.0005 |" in text
    assert "| full | 100% | 1.805 ± 0.005 / 1.100 ± 0.000 | 1.905 ± 0.005 / 1.050 ± 0.000 |" in text
    assert "Not comparable, ended outside the learning rates that were tried: beyond." in text


def test_the_plot_is_well_formed_and_marks_every_arm_once():
    drawn = ElementTree.fromstring(plot(study()))
    titles = [t.text for t in drawn.iter("{http://www.w3.org/2000/svg}title")]
    for policy, rates in (("full", 2), ("random", 2), ("a < b", 2), ("beyond", 1)):
        assert sum(t.startswith(f"{policy}, learning rate") for t in titles) == rates


def test_sixteen_policies_are_told_apart_by_colour_and_shape():
    policies = ["full", *(f"policy {number}" for number in range(15))]
    drawn = ElementTree.fromstring(plot(Study((2.5, 0.9), tuple(Arm(policy, 1e-3, 0, 2.0, 1.0, 1.0) for policy in policies), 10.0, 2.0)))
    marks = {}
    for mark in drawn.iter():
        if mark.get("fill", "none").startswith("#") and (title := mark.find("{http://www.w3.org/2000/svg}title")) is not None:
            outline = mark.get("d", "").partition("l")[2]  # behind the place where it begins
            marks.setdefault((mark.tag, mark.get("fill"), outline), set()).add(title.text.split(",")[0])
    named = [names for names in marks.values() if names & set(policies)]
    assert all(len(names) == 1 for names in named)
    assert set().union(*named) == set(policies)
