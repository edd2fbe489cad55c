"""`lumiray doctor`: whether this machine and its cluster can train, one line for each check, with the mend.

    lumiray doctor
    lumiray doctor --output s3://bucket/runs --shards 's3://bucket/set/{00000..00099}.tar'

From outside of a cluster's network: `ray job submit --working-dir . -- python -m lumiray doctor`, where lumiray is
installed on the nodes.
"""

from lumiray.doctor.examination import run_doctor

__all__ = ["run_doctor"]
