"""How well a text reads: whether its letters that are not ASCII are those of a language its encoding is used for."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

FRENCH, GERMAN, SPANISH, PORTUGUESE = "éèêëàâçîïôùûüœ", "äöüßé", "áéíóúñüªº", "áâãàçéêíóôõúü"
ITALIAN, NORDIC, ICELANDIC, CATALAN = "àèéìòùíî", "åäöæøéü", "áéíóúýþæöð", "àèéíïòóúüç"
POLISH, CZECH, HUNGARIAN, ROMANIAN = "ąćęłńóśźż", "áčďéěíňóřšťúůýžäľĺŕô", "áéíóöőúüű", "ăâîşţșț"
CROATIAN, TURKISH, LITHUANIAN, LATVIAN = "čćđšž", "çğıöşüâîû", "ąčęėįšųūž", "āčēģīķļņšūž"
VIETNAMESE = "àáâãèéêìíòóôõùúýăđĩũơưạ" + "\u0300\u0301\u0303\u0309\u0323"
RUSSIAN, UKRAINIAN, SERBIAN = "оеаинтсрвлкмдпуяыь", "оеаинтсрвлкмдпуяьіїє", "оеаинтсрвлкмдпујљњћђ"
GREEK = "αοιετσνηυρπκμλωςάέήίόύώ"
HEBREW, ARABIC, THAI = "אבגדהוזחטילמנסעפצקרשת", "اليمونرتبعدسهفةأ،؟", "กงจชดตทนบปพมยรลวสหอะาำเแโไใ"
WESTERN = (FRENCH, GERMAN, SPANISH, PORTUGUESE, ITALIAN, NORDIC, ICELANDIC, CATALAN)
CENTRAL = (POLISH, CZECH, HUNGARIAN, ROMANIAN, CROATIAN)
CYRILLIC = (RUSSIAN, UKRAINIAN, SERBIAN)
FINAL_LETTERS = "ךםןףץς"
TONES = "่้๊๋์"
MARKS_OF_THAI = "ัิีึืฺุู็ํ" + TONES
CAPITAL, RUN, RARE = 0.6, 0.7, 0.4
"""Weights of a capital letter within a word (where there are small ones), a second letter in a row that is not ASCII
(in Latin), a rare letter."""
LATIN_ENDS = "Ͱ"
SPACES = "\t\n\r\f\x1b"
SIGNS = "‘’“”–—…€§°«»©®™·•\xa0‰×½¼¾²³µ±÷¥£¢"
FEW_SIGNS = 8
OPENING, WITHIN_WORDS = "‚„¿¡", "’—–…·\xad"


def _japanese(letter: str) -> float:
    if "ぁ" <= letter <= "ヾ" or letter in "、。「」":
        return 1.0
    return 0.8 if _lead(letter, "cp932") in range(0x88, 0x98) else 0.2 if "一" <= letter <= "鿿" else 0.0


def _chinese(letter: str) -> float:
    return 0.9 * (letter in "，。、：；？！“”《》" or _lead(letter, "gb2312") in range(0xB0, 0xD8))


def _traditional(letter: str) -> float:
    return 0.9 * (letter in "，。、：；？！「」" or _lead(letter, "big5") in range(0xA4, 0xC7))


def _korean(letter: str) -> float:
    return float(_lead(letter, "euc_kr") in range(0xB0, 0xC9))


def _lead(letter: str, encoding: str) -> int:
    """The first byte of a character of two, which in these encodings tells common characters from rare ones."""
    data = letter.encode(encoding, errors="ignore")
    return data[0] if len(data) == 2 else 0


USUAL: dict[str, tuple[float, tuple[str | Callable[[str], float], ...]]] = {
    "cp1252": (0.0, WESTERN),
    "cp1250": (0.01, CENTRAL),
    "cp1251": (0.0, CYRILLIC),
    "cp1254": (0.01, (TURKISH,)),
    "cp1257": (0.02, (LITHUANIAN, LATVIAN)),
    "cp1253": (0.0, (GREEK,)),
    "cp1255": (0.0, (HEBREW,)),
    "cp1256": (0.0, (ARABIC,)),
    "cp1258": (0.1, (VIETNAMESE,)),
    "cp874": (0.0, (THAI,)),
    "cp932": (0.0, (_japanese,)),
    "euc_jp": (0.0, (_japanese,)),
    "gb18030": (0.0, (_chinese,)),
    "big5": (0.0, (_traditional,)),
    "cp949": (0.0, (_korean,)),
    "koi8_r": (0.0, (RUSSIAN,)),
    "koi8_u": (0.0, (UKRAINIAN,)),
    "iso8859_2": (0.02, CENTRAL),
    "iso8859_7": (0.02, (GREEK,)),
    "iso8859_5": (0.05, CYRILLIC),
    "iso8859_6": (0.05, (ARABIC,)),
    "mac_roman": (0.2, WESTERN),
    "cp850": (0.2, WESTERN),
    "cp852": (0.2, CENTRAL),
    "cp866": (0.1, (RUSSIAN,)),
}
"""Encodings that texts are found in, those that read the same by how usual they are: what is taken off the fit of each
for being rare, and for each language written in it its frequent letters that are not ASCII, or how frequent one is."""


def fit(text: str, encoding: str) -> float:
    """Return between 0 and 1 how well the characters of a text that are not ASCII suit one language of an encoding."""
    rarity, languages = USUAL[encoding]
    if (
        sum(unicodedata.category(character) == "Cc" and character not in SPACES for character in text)
        > len(text) // 100
    ):
        return 0.0
    places = [at for at, character in enumerate(text) if not character.isascii() and not _is_sign(text, at)]
    num_signs = sum(not character.isascii() for character in text) - len(places)
    if num_signs > max(FEW_SIGNS, len(text) // 2):
        return 0.0
    if not places:
        return 1 - rarity
    capital = CAPITAL if any(text[at].islower() for at in places) else 1.0
    return (
        max(sum(_suits(text, at, language, capital) for at in places) for language in languages) / len(places) - rarity
    )


def _is_sign(text: str, at: int) -> bool:
    character = text[at]
    if text[at - 1 : at].isalpha() and (character in OPENING or text[at + 1 : at + 2].isalpha()):
        return character in WITHIN_WORDS
    return character in SIGNS + OPENING


def _suits(text: str, at: int, language: str | Callable[[str], float], capital: float) -> float:
    character, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if callable(language):
        return language(character)
    if character.isupper() and before.islower():
        return 0.0
    cased = capital if character.isupper() and before.isalpha() else 1.0
    if language[0] < LATIN_ENDS:
        return cased * (character.lower() in language) * (RUN if before.isalpha() and not before.isascii() else 1.0)
    if any(beside.isascii() and beside.isalpha() for beside in (before, after)):
        return 0.0
    if character in MARKS_OF_THAI:
        return float("ก" <= before <= "ฮ" or (character in TONES and before in MARKS_OF_THAI))
    if character in FINAL_LETTERS and "א" <= after <= "ת":
        return 0.0
    return cased * (1.0 if character.lower() in language else RARE * (_block(character) == _block(language[0])))


def _block(letter: str) -> int:
    """Alphabets stand in blocks of at least 128 characters; the two of Greek and of Cyrillic are not told apart."""
    return ord(letter) >> 8 if letter >= "Ѐ" else ord(letter) >> 7
