from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from skincnn.clinical_metadata import (
    CLINICAL_COLUMNS,
    REGION_OF,
    SEXES,
    encode_clinical_metadata,
)
from skincnn.serving.clinical_metadata import METADATA_SIGNATURE, encode_in_graph

SITES = ["", "unknown", " Unknown ", *REGION_OF, *(site.upper() for site in REGION_OF)]
SITES += [site.replace(" ", "_").title() + " " for site in REGION_OF]
WORDS = ["", "unknown", "UNKNOWN", *SEXES, " Male", "FEMALE\t"]
AGES = [np.nan, 0.0, 0.5, 5.0, 35.0, 50.0, 85.0, 101.0]


def as_inputs(table: pd.DataFrame) -> list[tf.Tensor]:
    return [tf.constant(table[spec.name], spec.dtype) for spec in METADATA_SIGNATURE]


def test_the_graph_encodes_as_training_does() -> None:
    """Compares all combinations of ages, sexes and sites, in any spelling."""
    assert tuple(spec.name for spec in METADATA_SIGNATURE) == CLINICAL_COLUMNS
    rows = pd.MultiIndex.from_product([AGES, WORDS, SITES], names=CLINICAL_COLUMNS)
    table = rows.to_frame(index=False)
    in_graph = tf.function(encode_in_graph, input_signature=METADATA_SIGNATURE)
    encoded = in_graph(*as_inputs(table))
    assert encoded.dtype == tf.float32
    np.testing.assert_array_equal(encoded, encode_clinical_metadata(table))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", -1.0, "age must be a number of years >= 0"),
        ("age", np.inf, "age must be a number of years >= 0"),
        ("sex", "mal", "sex must be one of female, male, unknown"),
        ("localization", "knee", "localization must be one of head/neck"),
    ],
)
def test_an_invalid_value_is_rejected(
    column: str, value: float | str, message: str
) -> None:
    """The message shows the invalid value and no other value of the batch."""
    table = pd.DataFrame({"age": [5.0], "sex": ["male"], "localization": ["back"]})
    table = pd.concat([table] * 9 + [table.assign(**{column: [value]})])
    in_graph = tf.function(encode_in_graph, input_signature=METADATA_SIGNATURE)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
        in_graph(*as_inputs(table))
    text = value if isinstance(value, str) else f"{value:g}"
    assert f"[{text}]" in str(caught.value).partition("Received:")[2].splitlines()[0]
