"""Map what the header claims about the body part to the router's labels, to compare with the decision.

Body Part Examined has one of the terms of PS3.16 annex L, or whatever a technician or a vendor wrote:
other languages, views, laterality (`TORAX`, `CHEST_PA`, `LWS`, `KNEE_L`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from transforms.core.labels import ABDOMINAL, ADULT_CHEST, CHESTS, OTHERS, PEDIATRIC_CHEST, SPINE
from transforms.imaging.age import is_plausible_age

CHEST_REGION: Final = "CHEST"
ABDOMEN_REGION: Final = "ABDOMEN"
SPINE_REGION: Final = "SPINE"
OTHER_REGION: Final = "OTHER"
REGIONS: Final = frozenset({CHEST_REGION, ABDOMEN_REGION, SPINE_REGION, OTHER_REGION})
"""Values of `claimed_region`."""
_LABELS: Final = {ABDOMEN_REGION: ABDOMINAL, SPINE_REGION: SPINE, OTHER_REGION: OTHERS}

_WORDS: Final[dict[str, str]] = {
    word: region
    for region, words in {
        CHEST_REGION: "CHEST THORAX CHESTTORAX CHESTTHORAX LUNG LUNGS CXR THX THO TORAX TORACE TORACO "
        "PULMON PULMONES PULMAO POLMONE POLMONI POUMON POUMONS LUNGE LUNGEN BRUSTKORB LONGEN "
        "KLATKA 胸 胸部 肺",
        ABDOMEN_REGION: "ABDOMEN ABDOMENPELVIS KUB ABD ABDO ABDOMINAL ADDOME BUIK BAUCH BRZUCH "
        "BUK 腹 腹部",
        SPINE_REGION: "SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE WHOLESPINE "
        "CERVICALSPINE THORACICSPINE DORSALSPINE LUMBARSPINE LUMBOSACRALSPINE SACRALSPINE COCCYX "
        "SACRUM SPINAL VERTEBRA VERTEBRAE LUMBAR LUMBOSACRAL CERVICAL SCOLIOSIS HWS BWS LWS "
        "WIRBELSAEULE WIRBELSAULE HALSWIRBELSAEULE HALSWIRBELSAULE BRUSTWIRBELSAEULE "
        "BRUSTWIRBELSAULE LENDENWIRBELSAEULE LENDENWIRBELSAULE STEISSBEIN KREUZBEIN COLUMNA "
        "COLUNA COLONNA RACHIS RACHIDE WERVELKOLOM KREGOSLUP LUMBAL LUMBALE LUMBAIRE CERVICALE "
        "RYGGRAD 脊柱 脊椎 頸椎 頚椎 颈椎 胸椎 腰椎 仙骨 骶椎",
        OTHER_REGION: "SKULL HEAD JAW MANDIBLE MAXILLA ZYGOMA NOSE NASAL SINUS SINUSES TMJ TMJOINT "
        "ORBIT ORBITS FACE FACIAL TEETH TOOTH DENTAL SHOULDER CLAVICLE SCAPULA HUMERUS ARM "
        "UPPERARM ELBOW FOREARM WRIST HAND HANDS FINGER FINGERS THUMB PELVIS HIP HIPS SIJOINT "
        "SIJOINTS FEMUR THIGH KNEE KNEES PATELLA LEG LEGS LOWERLEG TIBIA FIBULA ANKLE FOOT FEET "
        "TOE TOES CALCANEUS HEEL EXTREMITY EXTREMITIES UPPEREXTREMITY LOWEREXTREMITY BREAST "
        "RADIUS ULNA SCHAEDEL SCHADEL SCHULTER OBERARM ELLENBOGEN UNTERARM HANDGELENK DAUMEN "
        "BECKEN HUEFTE HUFTE OBERSCHENKEL KNIE UNTERSCHENKEL SPRUNGGELENK FUSS ZEHE ZEHEN FERSE "
        "KIEFER CRANE EPAULE COUDE POIGNET MAIN DOIGT BASSIN HANCHE GENOU CHEVILLE PIED ORTEIL "
        "CRANEO HOMBRO CODO MUNECA MANO DEDO CADERA RODILLA TOBILLO PIE CRANIO OMBRO COTOVELO "
        "PUNHO MAO BACIA QUADRIL JOELHO TORNOZELO SPALLA GOMITO POLSO BACINO ANCA GINOCCHIO "
        "CAVIGLIA PIEDE SCHEDEL SCHOUDER ELLEBOOG POLS BEKKEN HEUP ENKEL VOET 頭部 头颅 頭 肩 "
        "肩関節 肩关节 肘 手 手関節 腕关节 骨盤 骨盆 股関節 髋关节 膝 膝関節 膝关节 足 足関節 "
        "踝关节",
    }.items()
    for word in words.split()
}
"""Words by region: PS3.16 table L-1, and their equivalents in other languages."""
_QUALIFIERS: Final = frozenset(
    (
        "PA AP LAT LATERAL LL L R LT RT LEFT RIGHT LI RE LINKS RECHTS GAUCHE DROIT DROITE IZQ DER SIN "
        "DX SX BILAT BILATERAL BOTH PORT PORTABLE MOBILE BED BEDSIDE SUPINE PRONE ERECT UPRIGHT "
        "STANDING SITTING DECUB DECUBITUS OBL OBLIQUE AXIAL VIEW VIEWS V VW ROUTINE ADULT CHILD "
        "PED PEDS PEDIATRIC INFANT BABY NEONATE XR XRAY RX CR DR C T S W WO AND OF THE DE LA DEL "
        "DU WHOLE FULL TOTAL UPPER LOWER MIN JOINT JOINTS BONE BONES REGION FRONTAL FRONT "
        "THORACIC THORACAL THORACALE THORACIQUE TORACICA DORSAL DORSALE SACRAL SACRALE FLEX EXT "
        "FLEXION EXTENSION INSP EXP TRAUMA LC SERIES STUDY"
    ).split()
)
"""Words beside a body part that do not change its region."""


def claimed_region(values: Iterable[str]) -> str | None:
    """Return the region that all values of Body Part Examined claim, one of `REGIONS`, or None.

    Each value may have a word for a body part with views, sides and positions around it. A word that is
    unknown, or words for two regions (`CHEST_TO_ABDOMEN`), claim nothing. Neither do ribs and sternum,
    which are imaged as chests or on their own.

    Args:
        values: Values of Body Part Examined, or meanings of codes of anatomic regions.
    """
    regions = [_region(value) for value in values]
    return regions[0] if regions and len(set(regions)) == 1 else None


def header_label(claim: str | None, age_years: float | None, adult_from: float) -> str | None:
    """Return the label that corresponds to a region or to Body Part Examined (0018,0015), or None.

    A chest is adult unless a plausible age below `adult_from` years is known. Standard: PS3.16 annex L,
    table L-1.
    """
    region = claim if claim in REGIONS else claimed_region([claim or ""])
    if region == CHEST_REGION:
        is_child = age_years is not None and is_plausible_age(age_years) and age_years < adult_from
        return PEDIATRIC_CHEST if is_child else ADULT_CHEST
    return None if region is None else _LABELS[region]


def agrees(header: str | None, decided: str) -> bool | None:
    """Return whether two labels denote the same region; None if the header has no label.

    Adult and pediatric chest are one region.
    """
    if header is None:
        return None
    return header == decided or (header in CHESTS and decided in CHESTS)


def _region(text: str) -> str | None:
    words = [word for word in _words(text) if not any(character.isdigit() for character in word)]
    joined = _WORDS.get("".join(words))
    if joined is not None:
        return joined
    parts = [word for word in words if word not in _QUALIFIERS]
    if "PELVIS" in parts and _WORDS.get(parts[0]) == ABDOMEN_REGION:
        parts.remove("PELVIS")
    regions = {_WORDS.get(word) for word in parts}
    return regions.pop() if len(regions) == 1 else None


def _words(text: str) -> list[str]:
    """Return the words of a text in upper case, without accents."""
    decomposed = unicodedata.normalize("NFKD", _unicode(text).upper())
    plain = "".join(one for one in decomposed if not unicodedata.combining(one))
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", plain))


def _unicode(text: str) -> str:
    """Return a Code String, which is read as ISO 8859-1, in the UTF-8 that some devices write."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
