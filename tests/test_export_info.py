from __future__ import annotations

import json
from pathlib import Path

import pytest
from exports import make_info, make_rule

from skincnn.config import DataConfig
from skincnn.errors import ConfigError, DataError
from skincnn.serving.export_info import (
    CHECKSUM,
    info_path,
    read_export_info,
    write_export_info,
)

DATA = DataConfig(
    image_size=64,
    resize_mode="pad",
    resize_method="nearest",
    crop_height=0.75,
    crop_width=0.8,
    crop_border=True,
    color_constancy=True,
)
INFO = make_info(make_rule("é", "b"), DATA)


def test_the_metadata_of_an_export_is_read_as_written(tmp_path: Path) -> None:
    path = info_path(tmp_path / "x.onnx")
    assert path.name == "x.onnx.json"
    write_export_info(path, INFO)
    # The order of the keys does not matter.
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    info = read_export_info(path)
    assert info == INFO
    assert info.preprocessing[0].data_config() == DATA
    assert not info.clinical_metadata


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "y"}, DataError, "has changed since it was written"),
        ({CHECKSUM: None}, DataError, "has changed since it was written"),
        ({CHECKSUM: "0" * 64}, DataError, "has changed since it was written"),
        ({"more": 1}, ConfigError, "`more`: Extra inputs are not permitted"),
        ({"variant": None}, ConfigError, "`variant`: Input should be a valid string"),
        ({"schema_version": 0}, ConfigError, "Expected schema_version 1. Received: 0"),
    ],
)
def test_changed_metadata_is_rejected(
    changes: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "metadata.json"
    write_export_info(path, INFO)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(error, match=message) as caught:
        read_export_info(path)
    assert "Export the run again" in str(caught.value)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must contain a JSON object"):
        read_export_info(path)
