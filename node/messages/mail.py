"""A mail about failures by SMTP (RFC 5321, STARTTLS RFC 3207)."""

import smtplib
import ssl
from collections.abc import Mapping
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from config import Reason
from config.message_settings import MailDestination
from config.secret import SecretError, read_secret
from node.dimse_link import AwayError
from node.outbox import Fate, Outcome


def send(
    receiver: MailDestination, message_id: str, as_of: datetime, content: Mapping[str, Any], timeout_s: float
) -> Outcome:
    """One mail. Raises AwayError, KeyError if the content is none of `node.messages.failures`."""
    mail = composed(receiver, message_id, as_of, content)
    where = f"{receiver.host}:{receiver.port}"
    try:
        with smtplib.SMTP(receiver.host, receiver.port, timeout=timeout_s) as smtp:
            if receiver.starttls:
                smtp.starttls(context=ssl.create_default_context(cafile=receiver.ca_file))
            if receiver.user:
                smtp.login(receiver.user, read_secret(receiver.password))
            missed = smtp.send_message(mail)
    except SecretError as error:
        raise AwayError(Reason.INTERNAL, str(error)) from error
    except smtplib.SMTPRecipientsRefused as error:
        return _judged(max(code for code, _ in error.recipients.values()), "every recipient")
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        return _judged(error.smtp_code, type(error).__name__)
    except smtplib.SMTPNotSupportedError as error:
        raise AwayError(Reason.TLS_EXPECTED, f"{where} offers no STARTTLS, or no login") from error
    except smtplib.SMTPResponseException as error:
        raise AwayError(Reason.PEER_REFUSED, f"{where}: {type(error).__name__}, SMTP {error.smtp_code}") from error
    except ssl.SSLCertVerificationError as error:
        text = f"{where}: its certificate is not one of a known authority, or not for this name"
        raise AwayError(Reason.TLS_CERTIFICATE_UNTRUSTED, text) from error
    except (smtplib.SMTPException, OSError) as error:
        raise AwayError(Reason.PEER_UNREACHABLE, f"{where} does not answer ({type(error).__name__})") from error
    return Outcome(Fate.STORED, detail=f"{len(missed)} recipient(s) refused" if missed else "")


def composed(receiver: MailDestination, message_id: str, as_of: datetime, content: Mapping[str, Any]) -> EmailMessage:
    """The mail; the same each time it is sent. Raises KeyError."""
    mail = EmailMessage()
    mail["From"], mail["To"] = receiver.sender, ", ".join(receiver.recipients)
    mail["Subject"] = f"fVLM Node: {len(content['lines'])} kind(s) of failure"
    mail["Date"], mail["Message-ID"] = format_datetime(as_of), f"<{message_id}@fvlm-node.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    text = "\n\n".join(content["lines"])
    until = as_of.isoformat(timespec="minutes")
    mail.set_content(
        f"From {content['since']} to {until}:\n\n{text}\n\n"
        "More: fvlm-node status, or the console. This mail holds no patient data; do not answer it.\n"
    )
    return mail


def _judged(code: int, what: str) -> Outcome:
    fate = Fate.REFUSED if code >= 500 else Fate.RETRY
    return Outcome(fate, Reason.PEER_REFUSED, f"SMTP {code}: {what}")
