"""Published datasets with simple tables: BCN20000, PAD-UFES-20, Fitzpatrick17k and DDI."""

from __future__ import annotations

from collections.abc import Sequence

from tfds_ham10000.published.layout import (
    TableFile,
    TableLayout,
    concatenate,
    read_frame,
)
from tfds_ham10000.table.cells import Table, to_table


def read_all(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the rows of all tables.

    Raises:
        SourceError: A table is invalid.
    """
    frames = {table.path: read_frame(table) for table in tables}
    return to_table(tables[0].path, concatenate(frames))


BCN20000 = TableLayout(
    title="BCN20000",
    name="bcn20000",
    files="bcn_20k_train.csv and BCN_20k_train.zip",
    reference="Hernandez-Perez et al. (2024), doi:10.1038/s41597-024-03387-w",
    header=("bcn_filename", "lesion_id"),
    cells={"diagnosis": {"": None}},
    notes=(
        "all training images are also in the training set of ISIC 2019, with the same "
        "lesion_ids but other file names; patients are not published",
    ),
    read=read_all,
)
PAD_UFES_20 = TableLayout(
    title="PAD-UFES-20",
    name="pad_ufes_20",
    files="metadata.csv and imgs_part_1.zip to imgs_part_3.zip",
    reference="Pacheco et al. (2020), doi:10.1016/j.dib.2020.106221",
    header=("img_id", "diagnostic", "fitspatrick", "biopsed"),
    columns={"dx_type": "biopsed"},
    cells={"biopsed": {"True": "histo", "False": "clinical diagnosis"}},
    notes=("the images are smartphone images, not dermatoscopic images",),
)
FITZPATRICK17K = TableLayout(
    title="Fitzpatrick17k",
    name="fitzpatrick17k",
    files="fitzpatrick17k.csv and the images <md5hash>.jpg",
    reference="Groh et al. (2021), arXiv:2104.09957",
    header=("md5hash", "label", "three_partition_label"),
    images_may_be_missing=True,
    notes=(
        "patients and lesions are not published; --columns label=three_partition_label "
        "or label=nine_partition_label reads other labels, in which actinic keratosis is "
        "malignant, unlike in DDI; the 17 images that the column qc marks as wrongly "
        "labeled are used nevertheless",
        "the images are clinical images, not dermatoscopic images",
    ),
)
DDI = TableLayout(
    title="DDI",
    name="ddi",
    files="ddi_metadata.csv and 656 images, 000001.png to 000656.png",
    reference="Daneshjou et al. (2022), doi:10.1126/sciadv.abq6147",
    header=("DDI_file", "skin_tone", "malignant"),
    columns={"label": "malignant"},
    notes=(
        "patients are not published: images of one patient can be in several folds; "
        "--columns label=disease reads the 78 diagnoses",
        "the images are clinical images, not dermatoscopic images",
    ),
)
