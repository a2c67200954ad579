"""What a release is worth on studies with reports (`fvlm-node train evaluate`): shards, or phantoms.

`cases` are the studies, `examined` is what the release makes of them, once, on disk; all figures come from that:
`zero_shot` (the CT-CLIP protocol, subgroups), `probe`, `retrieval`, `prompts`, `reliability`. `run` makes an
`Assessment` of them, `report` writes it.
"""
