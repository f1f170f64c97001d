import math
from pathlib import Path

from mdlm_atat.formats import (
    MISSING,
    age,
    as_setting,
    count,
    counted,
    data_size,
    duration,
    number,
    p_value,
    percent,
    perplexity,
    short_count,
    significant,
    with_error,
)
from mdlm_atat.report.page import minus


def test_a_value_shows_2_digits_of_its_error_or_the_decimals_that_are_asked_for():
    assert with_error(1.72314, 0.0043) == "1.7231 ± 0.0043"
    assert with_error(5.6, 0.12) == "5.60 ± 0.12"
    assert with_error(1234.5, 37.0) == "1,234 ± 37"
    assert with_error(5.6, 0.12, decimals=4) == "5.6000 ± 0.1200"
    assert with_error(0.0031, 0.0012, sign=True) == "+0.0031 ± 0.0012"
    assert with_error(-0.0031, 0.0012, sign=True) == "-0.0031 ± 0.0012"


def test_a_value_whose_error_is_not_known_stands_alone_with_4_decimals():
    assert with_error(2.0, None) == with_error(2.0, math.nan) == with_error(2.0, 0.0) == "2.0000"
    assert with_error(2.0, 0.0, decimals=3) == "2.000 ± 0.000"
    assert [with_error(value, 0.1) for value in (None, math.nan, 1e9)] == [MISSING, "not finite", "1.00 × 10^9"]


def test_a_perplexity_has_2_decimals_and_thousands_are_parted():
    assert [perplexity(value) for value in (67.356, 1234.5, None, 1e9)] == ["67.36", "1,234.50", "–", "1.00 × 10^9"]


def test_one_of_a_thing_is_singular_and_none_or_several_are_plural():
    assert [counted(n, "file") for n in (0, 1, 2, 2031)] == ["0 files", "1 file", "2 files", "2,031 files"]


def test_a_path_among_settings_is_shown_as_a_path():
    assert as_setting(Path("a b/dev.csv")) == as_setting("a b/dev.csv") == "'a b/dev.csv'"


def test_numbers_are_worded_in_little_room_and_never_lost():
    assert [number(value) for value in (None, math.nan, 1e300, -0.0031, 67.356, 1500)] == [
        "–", "not finite", "1.00 × 10^300", "-0.003100", "67.36", "1,500",
    ]  # fmt: skip
    assert [significant(value) for value in (14210.7, 0.00123, 0.0)] == ["14,211", "0.001230", "0"]
    assert [count(value) for value in (None, 618, 98.3e6, 2.1e16, 4.2e9)] == [
        "–", "618", "98.3 million", "2.10 × 10^16", "4.20 billion",
    ]  # fmt: skip
    assert [percent(share) for share in (0.412, -0.26, 1.05, 0.0021, None)] == ["41%", "-26%", "105%", "0.21%", "–"]
    assert percent(0.5173, 3) == "51.7%"
    assert [p_value(p) for p in (0.0001, 0.21, 0.0021)] == ["p < 0.001", "p = 0.21", "p = 0.0021"]


def test_durations_are_in_2_units_at_most():
    assert [duration(s) for s in (0.18, 41.6, 252.0, 11100.0, 198000.0, None)] == [
        "0.18 s",
        "42 s",
        "4 min 12 s",
        "3 h 05 min",
        "2 days 7 h",
        "–",
    ]
    assert [age(s) for s in (-3, 59, 300, 11100, 47.9 * 3600, 30.5 * 86400)] == [
        "just now", "just now", "5 min ago", "3 h ago", "47 h ago", "30 days ago",
    ]  # fmt: skip


def test_sizes_and_counts_have_the_unit_that_leaves_1_to_3_digits():
    sizes = (0, 312, 1023, 4600, 18 << 20, 1.234 * 2**30, 999.7 * 2**20, 5 * 2**50, None)
    assert [data_size(size) for size in sizes] == [
        "0 B", "312 B", "1.00 KiB", "4.5 KiB", "18 MiB", "1.2 GiB", "0.98 GiB", "5120 TiB", "–",
    ]  # fmt: skip
    counts = (0, 950, 1000, 2400, 10_745_857, 1.3e9, 2.5e13, 7e17, None)
    assert [short_count(value) for value in counts] == [
        "0", "950", "1.00K", "2.40K", "10.7M", "1.30B", "25.0T", "7.00 × 10^17", "–",
    ]  # fmt: skip


def test_a_page_has_a_minus_sign_before_numbers_and_hyphens_in_names_dates_and_ranges():
    assert minus("-0.3 nats, -.5 to -0.1, 1.0 × 10^-5") == "−0.3 nats, −.5 to −0.1, 1.0 × 10^−5"
    assert minus("seed-0 of 2026-01-31, a-b, x --y 3-4") == "seed-0 of 2026-01-31, a-b, x --y 3-4"
