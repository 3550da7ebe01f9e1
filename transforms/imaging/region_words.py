"""The words by which headers name body parts, by region and language.

The source of the English words is PS3.16 annex L, table L-1. `docs/header-words.md` is generated from the
tables here. Words are compared in upper case, without accents, umlauts, blanks and hyphens.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from transforms.core.labels import ABDOMEN_REGION, CHEST_REGION, OTHER_REGION, SPINE_REGION

REGION_WORDS: Final[dict[str, dict[str, str]]] = {
    CHEST_REGION: {
        "English": "CHEST THORAX CHESTTORAX CHESTTHORAX LUNG LUNGS CXR THX THO",
        "German": "LUNGE LUNGEN BRUSTKORB",
        "French": "POUMON POUMONS",
        "Spanish": "TÓRAX PULMÓN PULMONES",
        "Portuguese": "TÓRAX PULMÃO PULMÕES",
        "Italian": "TORACE TORACO POLMONE POLMONI",
        "Dutch": "LONGEN BORSTKAS",
        "Nordic": "LUNGOR LUNGER BRÖSTKORG BRYSTKASSE",
        "Polish": "KLATKA KLATKAPIERSIOWA PŁUCA",
        "Czech": "HRUDNÍK PLÍCE",
        "Turkish": "TORAKS AKCİĞER",
        "Russian": "ОГК ЛЕГКИЕ ГРУДНАЯКЛЕТКА ГРУДНОЙКЛЕТКИ",
        "Chinese, Japanese": "胸 胸部 胸片 肺",
    },
    ABDOMEN_REGION: {
        "English": "ABDOMEN ABDOMENPELVIS KUB ABD ABDO ABDOMINAL",
        "German": "BAUCH BAUCHRAUM",
        "French": "ASP",
        "Spanish": "VIENTRE",
        "Portuguese": "ABDOME",
        "Italian": "ADDOME",
        "Dutch": "BUIK BUIKOVERZICHT",
        "Nordic": "BUK",
        "Polish": "BRZUCH BRZUCHA JAMABRZUSZNA JAMYBRZUSZNEJ",
        "Czech": "BŘICHO",
        "Turkish": "BATIN ADBG",
        "Russian": "ЖИВОТ БРЮШНАЯПОЛОСТЬ БРЮШНОЙПОЛОСТИ",
        "Chinese, Japanese": "腹 腹部 腹平片",
    },
    SPINE_REGION: {
        "English": "SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE WHOLESPINE CERVICALSPINE "
        "THORACICSPINE DORSALSPINE LUMBARSPINE LUMBOSACRALSPINE SACRALSPINE COCCYX SACRUM SPINAL "
        "VERTEBRA VERTEBRAE LUMBAR LUMBOSACRAL CERVICAL SCOLIOSIS",
        "German": "HWS BWS LWS WIRBELSÄULE WIRBELSAEULE HALSWIRBELSÄULE HALSWIRBELSAEULE "
        "BRUSTWIRBELSÄULE BRUSTWIRBELSAEULE LENDENWIRBELSÄULE LENDENWIRBELSAEULE STEISSBEIN KREUZBEIN",
        "French": "RACHIS LOMBAIRE LUMBAIRE CERVICALE SCOLIOSE",
        "Spanish": "COLUMNA LUMBAL",
        "Portuguese": "COLUNA",
        "Italian": "COLONNA RACHIDE LOMBARE LUMBALE",
        "Dutch": "WERVELKOLOM",
        "Nordic": "RYGGRAD HALSRYGG LÄNDRYGG BRÖSTRYGG LÆNDERYG",
        "Polish": "KRĘGOSŁUP KRĘGOSŁUPA",
        "Czech": "PÁTEŘ PÁTEŘE",
        "Turkish": "OMURGA VERTEBRALAR",
        "Russian": "ПОЗВОНОЧНИК ПОЗВОНОЧНИКА",
        "Chinese, Japanese": "脊柱 脊椎 頸椎 頚椎 颈椎 胸椎 腰椎 仙骨 骶椎 尾骨",
    },
    OTHER_REGION: {
        "English": "SKULL HEAD JAW MANDIBLE MAXILLA ZYGOMA NOSE NASAL SINUS SINUSES TMJ TMJOINT ORBIT "
        "ORBITS FACE FACIAL TEETH TOOTH DENTAL SHOULDER CLAVICLE SCAPULA HUMERUS ARM UPPERARM ELBOW "
        "FOREARM WRIST HAND HANDS FINGER FINGERS THUMB PELVIS HIP HIPS SIJOINT SIJOINTS FEMUR THIGH KNEE "
        "KNEES PATELLA LEG LEGS LOWERLEG TIBIA FIBULA ANKLE FOOT FEET TOE TOES CALCANEUS HEEL EXTREMITY "
        "EXTREMITIES UPPEREXTREMITY LOWEREXTREMITY BREAST RADIUS ULNA",
        "German": "SCHÄDEL SCHAEDEL SCHULTER OBERARM ELLENBOGEN UNTERARM HANDGELENK DAUMEN BECKEN HÜFTE "
        "HUEFTE OBERSCHENKEL KNIE UNTERSCHENKEL SPRUNGGELENK FUSS ZEHE ZEHEN FERSE KIEFER",
        "French": "CRÂNE ÉPAULE COUDE POIGNET MAIN DOIGT BASSIN HANCHE GENOU CHEVILLE PIED ORTEIL",
        "Spanish": "CRÁNEO HOMBRO CODO MUÑECA MANO DEDO CADERA RODILLA TOBILLO PIE",
        "Portuguese": "CRÂNIO OMBRO COTOVELO PUNHO MÃO BACIA QUADRIL JOELHO TORNOZELO",
        "Italian": "CRANIO SPALLA GOMITO POLSO BACINO ANCA GINOCCHIO CAVIGLIA PIEDE",
        "Dutch": "SCHEDEL SCHOUDER ELLEBOOG POLS BEKKEN HEUP ENKEL VOET",
        "Nordic": "AXEL ARMBÅGE HANDLED HÖFT KNÄ FOTLED SKULDER HÅNDLED HOFTE KNÆ",
        "Polish": "CZASZKA BARK ŁOKIEĆ NADGARSTEK DŁOŃ MIEDNICA BIODRO KOLANO STOPA",
        "Czech": "LEBKA RAMENO LOKET ZÁPĚSTÍ RUKA PÁNEV KYČEL KOLENO KOTNÍK NOHA",
        "Turkish": "KAFA OMUZ DİRSEK PELVİS KALÇA DİZ AYAK",
        "Russian": "ЧЕРЕП ПЛЕЧО ЛОКОТЬ КИСТЬ ТАЗ БЕДРО КОЛЕНО СТОПА",
        "Chinese, Japanese": "頭部 头颅 頭 肩 肩関節 肩关节 肘 手 手関節 腕关节 骨盤 骨盆 "
        "股関節 髋关节 膝 膝関節 膝关节 足 足関節 踝关节",
    },
}
"""Words by region and language; each can be one of several words of an element."""
QUALIFIERS: Final = frozenset(
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
HOMOGRAPHS: Final = frozenset("ARM FACE MAIN PIE POLS AXEL BARK HEAD ASP".split())
"""Words that mean something else in descriptions (C-arm, thorax de face, main view, head first)."""
UNSPECIFIC_WORDS: Final = frozenset(
    "RIB RIBS STERNUM STERNAL RIPPEN BRUSTBEIN COTES COSTILLAS COSTELAS COSTE RIBBEN REVBEN ZEBRA TRUNK "
    "TORSO WHOLEBODY BABYGRAM SURVEY SKELETAL SKELETON SHUNT RECTUM".split()
)
"""Words with which a description claims nothing: imaged as chests or on their own, or several regions."""

_UNDECOMPOSED: Final = str.maketrans({"Ł": "L", "Ø": "O", "Æ": "AE", "Œ": "OE", "Đ": "D"})


def split_words(text: str) -> list[str]:
    """Return the words of a text in upper case, without accents."""
    decomposed = unicodedata.normalize("NFKD", _unicode(text).upper())
    plain = "".join(one for one in decomposed if not unicodedata.combining(one))
    plain = unicodedata.normalize("NFC", plain).translate(_UNDECOMPOSED)
    return re.findall(r"[^\W_]+", plain)


def _unicode(text: str) -> str:
    """Return a Code String, which is read as ISO 8859-1, in the UTF-8 that some devices write."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


WORDS: Final[dict[str, str]] = {
    word: region
    for region, languages in REGION_WORDS.items()
    for words in languages.values()
    for word in split_words(words)
}
"""Regions by word, as `split_words` returns it."""
