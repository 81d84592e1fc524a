from __future__ import annotations

from facemsm.evaluation.markdown import WIDEST, markdown_table


def test_columns_line_up_as_text() -> None:
    assert markdown_table(["name", "x", ""], [["a|b", "1.00", "none"], ["c", "12.50", ""]], "<><").splitlines() == [
        "| name |     x |      |",
        "|------|------:|------|",
        "| a\\|b |  1.00 | none |",
        "| c    | 12.50 |      |",
    ]


def test_the_last_side_is_for_all_that_follow_and_long_cells_stick_out() -> None:
    head, rule, row = markdown_table(["a", "b", "c"], [["x", "y", "z" * (WIDEST + 9)]]).splitlines()
    assert head.split("|")[2] == "   b "
    assert rule == f"|-----|----:|-{'-' * WIDEST}:|"
    assert row.endswith(f"| {'z' * (WIDEST + 9)} |")


def test_a_table_without_rows() -> None:
    assert markdown_table(["a"], []) == "| a   |\n|-----|"
