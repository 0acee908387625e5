"""What a model may be told of a patient, and in which words.

Never `dx_type` or `dataset`, which tell the diagnosis; `data.leakage` refuses them.
"""

from __future__ import annotations

METADATA_COLUMNS = ("age", "sex", "localization")
"""The columns of a table that are encoded, and the inputs of an exported model: years,
and words."""
UNKNOWN = "unknown"
SEXES = ("female", "male")
REGIONS = {
    "head and neck": ("head/neck", "face", "scalp", "ear", "neck"),
    "torso": (
        "anterior torso",
        "posterior torso",
        "lateral torso",
        "back",
        "chest",
        "abdomen",
        "trunk",
    ),
    "upper extremity": ("upper extremity", "hand"),
    "lower extremity": ("lower extremity", "foot"),
    "palms and soles": ("palms/soles", "acral"),
    "genital": ("genital", "oral/genital"),
}
"""Regions of the body: what HAM10000 (`localization`) and ISIC 2019
(`anatom_site_general`) call the sites in each. Finer ones are not common to both."""
REGION_OF = {site: region for region, sites in REGIONS.items() for site in sites}

METADATA_FIELDS = (
    "age_per_century",
    "age_unknown",
    *(f"sex_{sex}" for sex in (*SEXES, UNKNOWN)),
    *(f"site_{region.replace(' ', '_')}" for region in (*REGIONS, UNKNOWN)),
)
"""The columns of an encoded patient; see `data.metadata.encode_metadata`."""
