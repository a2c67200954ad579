"""From an archive to a collection: studies are found and fetched, reports read and paired, both de-identified.

The way of a study: `dimse`, `dicomweb` or `folder` find it (`entries`), `reports` and `pairing` say which report it
has, `choice` which series is taken, `deidentify` and `scrub` take away whose it is. `ledger` remembers how far that
has come, `pace` holds it back, `collecting` is the order of it all.
"""
