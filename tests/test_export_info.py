from __future__ import annotations

import json
from pathlib import Path

import pytest
from exports import make_info, make_rule

from skincnn.config import DataConfig
from skincnn.errors import ConfigError
from skincnn.records import write_record
from skincnn.serving.export_info import info_path, read_export_info

DATA = DataConfig(
    image_size=64,
    resize_mode="pad",
    resize_method="nearest",
    crop_height=0.75,
    crop_width=0.8,
    crop_border=True,
    color_constancy=True,
)


def test_the_metadata_of_an_export_is_read_as_written(tmp_path: Path) -> None:
    path, info = tmp_path / "x.onnx", make_info(make_rule("é", "b"), DATA)
    assert info_path(path).name == "x.onnx.json"
    write_record(info_path(path), info)
    assert read_export_info(path) == info
    assert info.preprocessing[0].data_config() == DATA
    assert not info.clinical_metadata
    content = json.loads(info_path(path).read_text())
    info_path(path).write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(ConfigError, match=r"`more`: Extra inputs.*Export the run again"):
        read_export_info(path)
