import re

import pytest
import torch

from bnn.data import fonts, glyph_pool, glyphs, lookalikes
from bnn.data.neighbors import auxiliary_classes

CLASSES = [[glyphs.class_name(char) for char in glyphs.draw_classes(draw, 100)] for draw in range(3)]
WANTED = [2] * 15 + [4] * 35 + [8] * 50


@pytest.mark.parametrize("classes", CLASSES)
def test_no_look_alike_is_a_class_and_the_table_has_enough_for_every_class(classes):
    found = lookalikes.lookalikes(classes, WANTED)
    assert list(found) == classes
    assert not set(auxiliary_classes(found)) & set(classes)
    assert [len(names) for names in found.values()] == WANTED
    assert all(len(set(names)) == len(names) for names in found.values())
    assert found == lookalikes.lookalikes(classes, WANTED)


def test_look_alikes_of_latin_letters_are_what_one_expects():
    everything = lookalikes.lookalikes([glyphs.class_name(char) for char in "àşż"], [4, 4, 4])
    assert {name[0] for name in everything[glyphs.class_name("à")]} & set("âȁāãå")
    assert {name[0] for name in everything[glyphs.class_name("ş")]} & set("șŞȘ")
    assert {name[0] for name in everything[glyphs.class_name("ż")]} & set("źẑŹ")


def test_none_is_a_near_duplicate_of_its_character_in_a_training_font():
    table = lookalikes._table()["lookalikes"]
    chars = glyphs.pool("target")[::13]
    codes = sorted({ord(char) for char in chars + "".join(table[char] for char in chars)})
    pics = glyph_pool.pictures(codes)
    for char in chars:
        others = [ord(other) for other in table[char]]
        assert not glyph_pool.near(pics, [ord(char)], others, fonts.TRAIN).any(), char


def test_the_control_has_as_many_other_classes_in_the_same_places():
    found = lookalikes.lookalikes(CLASSES[0], WANTED)
    control = lookalikes.shuffled(found, CLASSES[0], draw=0)
    assert [len(names) for names in control.values()] == WANTED
    random = set(auxiliary_classes(control))
    assert len(random) == len(auxiliary_classes(found))
    assert not random & (set(auxiliary_classes(found)) | set(CLASSES[0]))
    assert control == lookalikes.shuffled(found, CLASSES[0], draw=0) != lookalikes.shuffled(found, CLASSES[0], draw=1)


def test_images_are_drawn_in_training_fonts_and_repeat(monkeypatch):
    monkeypatch.setattr(lookalikes, "PER_CLASS", 3)
    seen = []
    bank = glyphs.Bank
    monkeypatch.setattr(glyphs, "Bank", lambda chars, faces, size: seen.extend(faces) or bank(chars, faces, size))
    names = [glyphs.class_name(char) for char in "âǽ"]
    first, again, other = (lookalikes.images(names, draw, 16, None) for draw in (0, 0, 1))
    assert first.labels.tolist() == [0, 0, 0, 1, 1, 1] and first.tensor.shape == (6, 1, 16, 16)
    assert torch.equal(first.tensor, again.tensor) and not torch.equal(first.tensor, other.tensor)
    assert {path.stem for path in seen} == set(fonts.TRAIN)
    for name in ("â", "", "â U+00E3 wrong"):
        with pytest.raises(ValueError, match=re.escape(f"neighbors: {name!r} names no character; expected such as")):
            lookalikes.images([name], 0, 16, None)
