"""Public sets, as downloaded -> rows: a picture, its labels, or the reason for its exclusion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cyclegan_age.data.prepare.folders import read_agfw, read_lats
from cyclegan_age.data.prepare.mats import read_cacd, read_imdb_wiki
from cyclegan_age.data.prepare.names import read_agedb, read_all_age_faces, read_fgnet, read_morph2, read_utkface
from cyclegan_age.data.prepare.rows import Row
from cyclegan_age.data.prepare.tables import read_adience, read_appa_real, read_fairface, read_ffhq_aging


@dataclass(frozen=True)
class PublicSet:
    """A public set.

    Attributes:
        read: its folder, as downloaded -> rows.
        title: its name in words.
        terms: terms of use in a few words; the terms that come with the download are binding.
        citation: of its paper.
    """

    read: Callable[[Path], list[Row]]
    title: str
    terms: str
    citation: str


_RESEARCH = "non-commercial research"
_ACADEMIC = "academic research, by agreement"

SETS: dict[str, PublicSet] = {
    "utkface": PublicSet(
        read_utkface,
        "UTKFace",
        f"{_RESEARCH}; copyright stays with the owners of the pictures",
        "Zhang, Song, Qi: Age Progression/Regression by Conditional Adversarial Autoencoder, CVPR 2017",
    ),
    "agfw": PublicSet(
        read_agfw,
        "AGFW, AGFW-v2",
        _ACADEMIC,
        "Duong, Luu, Quach, Bui: Longitudinal Face Modeling via Temporal Deep Restricted Boltzmann Machines, CVPR 2016",
    ),
    "cacd": PublicSet(
        read_cacd,
        "CACD",
        _RESEARCH,
        "Chen, Chen, Hsu: Cross-Age Reference Coding for Age-Invariant Face Recognition and Retrieval, ECCV 2014",
    ),
    "morph2": PublicSet(
        read_morph2,
        "MORPH, album 2",
        _ACADEMIC,
        "Ricanek, Tesafaye: MORPH: A Longitudinal Image Database of Normal Adult Age-Progression, FG 2006",
    ),
    "fgnet": PublicSet(
        read_fgnet,
        "FG-NET",
        "research",
        "Lanitis, Taylor, Cootes: Toward Automatic Simulation of Aging Effects on Face Images, TPAMI 2002",
    ),
    "adience": PublicSet(
        read_adience,
        "Adience",
        "research; the photographs' own Creative Commons licences",
        "Eidinger, Enbar, Hassner: Age and Gender Estimation of Unfiltered Faces, TIFS 2014",
    ),
    "imdb_wiki": PublicSet(
        read_imdb_wiki,
        "IMDB-WIKI",
        "academic research",
        "Rothe, Timofte, Van Gool: Deep Expectation of Real and Apparent Age from a Single Image, IJCV 2018",
    ),
    "agedb": PublicSet(
        read_agedb,
        "AgeDB",
        _ACADEMIC,
        "Moschoglou et al.: AgeDB: the First Manually Collected, In-the-Wild Age Database, CVPR workshops 2017",
    ),
    "fairface": PublicSet(
        read_fairface,
        "FairFace",
        "CC BY 4.0",
        "Karkkainen, Joo: FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age, WACV 2021",
    ),
    "ffhq_aging": PublicSet(
        read_ffhq_aging,
        "FFHQ-Aging",
        "CC BY-NC-SA 4.0 and the photographs' own licences",
        "Or-El, Sengupta, Fried, Shechtman, Kemelmacher-Shlizerman: Lifespan Age Transformation Synthesis, ECCV 2020",
    ),
    "all_age_faces": PublicSet(
        read_all_age_faces,
        "All-Age-Faces",
        "no licence stated",
        "Cheng, Li, Wang, Yu, Wang: Exploiting Effective Facial Patches for Robust Gender Recognition, TST 2019",
    ),
    "appa_real": PublicSet(
        read_appa_real,
        "APPA-REAL",
        "research",
        "Agustsson, Timofte, Escalera, Baro, Guyon, Rothe: Apparent and Real Age Estimation in Still Images, FG 2017",
    ),
    "lats": PublicSet(
        read_lats,
        "FFHQ-Aging in the folders of LATS",
        "CC BY-NC-SA 4.0 and the photographs' own licences",
        "Or-El, Sengupta, Fried, Shechtman, Kemelmacher-Shlizerman: Lifespan Age Transformation Synthesis, ECCV 2020",
    ),
}
