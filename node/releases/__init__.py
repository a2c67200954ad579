"""The life of model releases in a node: candidate, shadow, current, retired.

`rows` is what the database keeps of them, `registry` every change of it, `binding` which release reads what, `check`
what a release must pass before it may read, `loaded` what a worker holds in memory. A release in shadow reads beside
the current one: `shadow_queue` says what, `shadow_worker` does it, `shadow_wish` has it started; `agreement` compares,
`agreement_report` shows that. `standing` is what `status`, console and metrics tell, `commands` what a person types.
"""
