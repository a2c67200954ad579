"""PDF -> text, in a process with limits: a PDF is a program that strangers wrote.

`python pdf_child.py` reads a PDF from its input and writes a JSON list on its output, the text of each page, or an
object that says what is wrong; `dicom_sr.reports_in.pdf` starts it. Nothing of the project is imported here.
"""

import io
import json
import logging
import resource
import sys

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

MOST_PAGES = 500
MOST_CHARACTERS = 2_000_000
CPU_S = 20
"""Seconds of processor time."""
MEMORY = 512 * 2**20
"""Bytes of address space beyond what the started interpreter has."""
ENCRYPTED, DAMAGED, TOO_LARGE = "encrypted", "damaged", "too large"


class PdfError(ValueError):
    """One of ENCRYPTED, DAMAGED, TOO_LARGE."""


def page_texts(data: bytes) -> list[str]:
    """The text of each page. Raises PdfError; what a reader of damaged files may raise besides is caught by `main`."""
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise PdfError(ENCRYPTED)
        if len(reader.pages) > MOST_PAGES:
            raise PdfError(TOO_LARGE)
        texts: list[str] = []
        for page in reader.pages:
            texts.append(page.extract_text())
            if sum(map(len, texts)) > MOST_CHARACTERS:
                raise PdfError(TOO_LARGE)
    except (FileNotDecryptedError, DependencyError) as error:
        raise PdfError(ENCRYPTED) from error
    except PyPdfError as error:
        raise PdfError(DAMAGED) from error
    return texts


def main() -> None:
    used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()  # pypdf quotes the file in its warnings
    answer: list[str] | dict[str, str]
    try:
        answer = page_texts(sys.stdin.buffer.read())
    except PdfError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": TOO_LARGE}
    except Exception:  # pypdf raises nearly any type for a damaged file
        answer = {"error": DAMAGED}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
