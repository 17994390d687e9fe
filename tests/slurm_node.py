"""A SLURM of one node on this machine, with its own munge, ports and folders: for tests.  As root only.

    python tests/slurm_node.py FOLDER COMMAND...      starts it, runs COMMAND with SLURM_CONF set, stops it
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")


def why_not() -> str:
    """Why SLURM cannot start here, "" if it may."""
    if os.name != "posix" or os.getuid() != 0:
        return "starting slurmd needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm munge)" if lacking else ""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def node(folder: Path) -> Iterator[dict[str, str]]:
    """While inside, a one-node SLURM runs; the environment that its commands need.  RuntimeError: it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    key, sock, conf = folder / "munge.key", folder / "munge.socket", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    host, cpus = socket.gethostname(), os.cpu_count() or 1
    conf.write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
AuthType=auth/munge
AuthInfo=socket={sock},cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobRequeue=1
KillWait=10
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
""")
    environment = os.environ | {"SLURM_CONF": str(conf)}
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={sock}", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]  # fmt: skip
    started: list[subprocess.Popen] = []
    try:
        for command in commands:
            out = open(folder / f"{command[0]}.out", "wb")
            with out:
                started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True))
            time.sleep(1)
        end = time.monotonic() + 40
        while True:
            asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
            if asked.stdout.strip() in ("idle", "mixed", "allocated"):
                break
            if time.monotonic() > end or any(process.poll() is not None for process in started):
                logs = "\n".join(path.read_text(errors="replace")[-600:] for path in (*folder.glob("*.log"), *folder.glob("*.out")))
                raise RuntimeError(f"SLURM does not come up: {asked.stdout} {asked.stderr}\n{logs}")
            time.sleep(0.5)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True, check=False, timeout=30)
        time.sleep(1)
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    with node(Path(sys.argv[1]).absolute()) as found:
        sys.exit(subprocess.run(sys.argv[2:], env=found, check=False).returncode)
