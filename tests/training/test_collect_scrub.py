"""Texts without people: what headers know, what looks like a person, and what must stay."""

import pytest
from archive_patients import PATIENTS, cda, fhir, hl7
from hypothesis import given, settings
from hypothesis import strategies as st

from training.archive.identifiers import Known, known, of_report
from training.archive.scrub import LONGEST, Scrubber


def scrub(text: str, names: tuple[str, ...] = (), numbers: tuple[str, ...] = ()) -> str:
    return Scrubber(known(names, numbers)).scrub(text).text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Müller-Lüdenscheidt^Karl", "muller luedenscheidt MUELLER Müllers LÜDENSCHEIDT"),
        ("MUELLER^KARL", "Müller"),
        ("GROSS^Anna", "Groß"),
        ("Núñez^Ana=", "NUNEZ Ana"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "患者山田太郎は"),
        ("O'Neill^Sean", "O'Neill sean's"),
    ],
)
def test_names_go_however_they_are_written(name: str, text: str) -> None:
    left = scrub(text, (name,)).replace("___", "").replace("患者", "").replace("は", "")
    assert not left.strip(" '-")


def test_a_name_that_is_a_word_goes_only_where_it_is_capitalised() -> None:
    assert (
        scrub("The white matter of Mrs. White is normal.", ("White^Anna",)) == "The white matter of Mrs. ___ is normal."
    )


def test_a_name_that_negates_goes_only_beside_another_part_of_it() -> None:
    names = ("No^Min-jun", "Mass^Li")
    assert scrub("No pleural effusion, no nodule. Mass in segment 5, in line.", names) == (
        "No pleural effusion, no nodule. Mass in segment 5, in line."
    )
    left = scrub("No, Min-jun was seen. Min-jun No. Mr. No. Li Mass agrees. Seen by Li.", names)
    assert left == "___ was seen. ___. Mr. ___ ___ agrees. Seen by ___."


@given(
    names=st.lists(st.text(st.characters(categories=["L"]), min_size=4, max_size=12), min_size=1, max_size=4),
    number=st.from_regex(r"[A-Z]{0,3}[0-9]{5,9}", fullmatch=True),
    between=st.sampled_from([" ", ", ", "\n", " - ", "/"]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_name_nothing_of_it_remains(names: list[str], number: str, between: str) -> None:
    people = known(["^".join(names)], [number])
    scrubber = Scrubber(people)
    text = scrubber.scrub(between.join(["Seen", *names, number, "no nodule"])).text
    assert not scrubber.remains(text)
    assert number not in text


@pytest.mark.parametrize("text", ["Quibblesworht", "Quiblesworth", "Quibbelsworth", "QUIBBLESWORTHE", "Quibblesvorth"])
def test_a_long_name_goes_misspelt_too(text: str) -> None:
    assert scrub(f"of {text} here", ("Quibblesworth^Zed",)) == "of ___ here"
    assert scrub("of Quibbles here", ("Quibblesworth^Zed",)) == "of Quibbles here"


@pytest.mark.parametrize("text", ["471123", "00471123", "4711-23", "47 11 23", "0471123"])
def test_numbers_go_however_they_are_separated(text: str) -> None:
    assert scrub(f"see {text} there", numbers=("0471123",)) == "see ___ there"


def test_a_whole_address_goes_and_short_numbers_stay() -> None:
    assert scrub("of 12, ELM-Street in grade 12", numbers=("12 Elm Street", "12")) == "of ___ in grade 12"


@pytest.mark.parametrize(
    "secret",
    [
        "Dr. Gregory House", "Prof. Dr. med. Ilse Bergmann", "Mrs. van der Berg", "John Watson, MD",
        "Frau Schmidt-Kurz", "03/04/2019", "2019-04-03", "3.4.2019", "3. April 2019", "April 3, 2019",
        "3rd of April", "Apr 2019", "20190403", "04/2019", "10:42 am", "17.30 Uhr", "+49 89 1234567",
        "(555) 010-7788", "555-010-7788", "a.b@example.org", "https://pacs.example.org/x", "10.1.2.3",
        "1.2.826.0.1.3680043.8.498.77", "123-45-6789", "756.1234.5678.97", "12 Elm Street",
        "4 Rose Hill Road, Springfield, IL 62704", "Hauptstraße 12, 80331 München", "rue de Rivoli 12",
        "Saint Mary's Hospital", "Klinikum Großhadern", "SW1A 1AA", "S7712345",
    ],
)  # fmt: skip
def test_what_looks_like_a_person_goes(secret: str) -> None:
    text = scrub(f"The nodule, see {secret} again.")
    titles = {"Prof.", "med.", "Frau", "Mrs."}
    assert not any(word in text for word in secret.split() if len(word) > 3 and word not in titles)
    assert text.startswith("The nodule, see ")
    assert text.endswith(" again.")
    assert "___" in text


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("MRN: AB-77", "MRN: "),
        ("Accession number 9912", "Accession number "),
        ("Patient name: Ann Example", "Patient name: "),
        ("Referring physician: example, ann", "Referring physician: "),
        ("DOB 1.2.50", "DOB "),
        ("Electronically signed by ann example on Monday", "Electronically signed by "),
        ("Befundet von: ann beispiel", "Befundet von: "),
        ("Dear ann example,", "Dear "),
        ("Discussed with Ann Example", "Discussed with "),
        ("a 97-year-old man", "a "),
    ],
)
def test_labelled_values_go_and_labels_stay(line: str, label: str) -> None:
    text = scrub(line)
    assert text.startswith(f"{label}___")
    assert "xample" not in text
    assert "eispiel" not in text


@pytest.mark.parametrize(
    "text",
    [
        "A 12 x 5.5 x 3 mm nodule (series 4, image 123), 5-10 mm larger; HU 1200-1350 HU, mean 45 HU.",
        "Bosniak 2F cyst. Lung-RADS 4A. Fleischner: CT in 3-6 months, then 18-24 months.",
        "Disc L4/5 and T12/L1. Ratio 1:4. 65-year-old woman. Grade 2 of 4. Aorta 4.5 cm, stenosis 50-70%.",
        "1. No pulmonary embolism. 2. May be infectious. 3. Segments 5/6, 2000 ml effusion.",
        "Rundherd im Oberlappen, 9 mm. Kein Erguss. Herz normal groß. LAD und RCA verkalkt.",
        "Right lower lobe consolidation; DLP 321 mGy.cm; 120 kVp; slice thickness 1.25 mm.",
    ],
)
def test_findings_stay_as_they_are(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize("make", [lambda one: hl7(one, one.prose()), fhir, cda])
def test_reports_of_any_kind_tell_who_is_named(make: object) -> None:
    patient = PATIENTS[0]
    people = of_report(make(patient))  # type: ignore[operator]
    assert {patient.family, patient.given, "Mumblecroft"} <= people.names
    scrubber = Scrubber(people)
    text = f"{patient.family.lower()} at {patient.street}, {patient.phone.replace('-', '')}"
    assert scrubber.remains(text)
    assert scrubber.scrub(text).text.replace("(", "") == "___ at ___, ___"
    assert not scrubber.remains("___ at ___, ___")


def test_the_last_look_sees_through_any_separation() -> None:
    scrubber = Scrubber(known(numbers=("ADM-77-99187",)))
    assert scrubber.remains("a d m 7 7 9 9 1 8 7")
    assert not scrubber.remains("adm 77")


@pytest.mark.parametrize("data", [b"", b"MSH", b"MSH|", b"{", b"{}", b"<x", b"\0" * 200, b"\0" * 128 + b"DICM\xff"])
def test_damaged_files_name_nobody(data: bytes) -> None:
    assert of_report(data) == Known()


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        Scrubber(Known()).scrub("a" * (LONGEST + 1))
