"""A command's help in groups, where it has many options: what one looks for stands together."""

from __future__ import annotations

import click

_GROUPS = (
    ("Result and reports", "output output_dir force dry_run check only_if_faster pattern reports as_json"),
    ("Several models", "recursive jobs resume cluster"),
    ("Models in parts", "weights"),
    (
        "What is folded",
        "target activations equalize keep merge_affines strict_inputs freeze_inputs round_bias allow_growth",
    ),
    ("Inputs", "inputs shape labels batch"),
    ("Runtime", "device threads runtime_timeout runtime_memory allow_unsafe"),
    ("Proof", "no_verify verify_time"),
    ("Measurement and its gates", "no_bench max_time precision most_percent baseline cold profile"),
)


class Grouped(click.Command):
    """Options that no group names come last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has an option."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        left = {option.name: found for option in options if (found := option.get_help_record(ctx))}
        groups = [
            (title, [left.pop(name) for name in names.split() if name in left]) for title, names in _GROUPS
        ]
        for title, records in (*groups, ("Other options", list(left.values()))):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
