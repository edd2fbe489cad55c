"""The command line of the evaluation of boxes: sets by name, figures of several, classes of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumiray.errors import UserError
from lumiray.evaluate.box_options import BoxOptions, named_sets
from lumiray.train.score_boxes import class_pictures, figures_of


def test_several_sets_have_names_and_a_single_one_may() -> None:
    assert named_sets(("s3://bucket/a",)) == {"": "s3://bucket/a"}
    assert named_sets(("pets=p/",)) == {"pets": "p/"}
    assert named_sets(("pets=p/", "masks=m/{0..3}.tar")) == {"pets": "p/", "masks": "m/{0..3}.tar"}
    for wrong, message in ((("a/", "b=b/"), "has no name"), (("a=a/", "a=b/"), "twice"), ((), "names nothing")):
        with pytest.raises(UserError, match=message):
            named_sets(wrong)


def test_figures_of_several_sets_have_means_where_all_sets_have_them() -> None:
    assert figures_of({"": {"box_ap": 0.5}}) == {"box_ap": 0.5}
    found = figures_of({"a": {"box_ap": 0.2, "other": 1.0}, "b": {"box_ap": 0.4}})
    assert found["a/box_ap"] == 0.2 and found["average/box_ap"] == pytest.approx(0.3)
    assert "average/other" not in found


def test_rare_classes_are_told_by_a_file_in_the_order_of_ids(tmp_path: Path) -> None:
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps({"categories": [{"id": 9, "image_count": 4}, {"id": 2, "image_count": 300}]}))
    assert class_pictures(str(file)) == {1: 300, 2: 4}
    file.write_text(json.dumps({"categories": [{"id": 9}]}))
    with pytest.raises(UserError, match="`id` and `image_count`"):
        class_pictures(str(file))
    with pytest.raises(UserError, match="no such file"):
        class_pictures(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="give --measures lvis"):
        BoxOptions(("a/",), class_pictures=str(file))
