"""Messages out: who is told, beside the archives, of results, of urgent findings and of failures.

A message is a row (`rows`) written in the same transaction as the result, holding what it says (`content`) and no more
than its destination's level allows. `messenger` sends it until it arrives or is refused for good, always under the same
id, in the form of the destination: `webhook`, `hl7_message` over `mllp`, `fhir`, `mail`.
"""
