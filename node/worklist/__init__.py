"""Work that others schedule: the node as performer on a worklist of Unified Procedure Steps (IHE AIW-I Task Performer).

`workitem` and `report` are what is read from and written to a workitem, `link` what a worklist does, `ups_rs` and
`ups_dimse` the two protocols, `claims` the node's own memory of it, `performer` who puts them together.
"""
