"""Recipes of clusters: scripts and manifests for SLURM, PBS, Kubernetes and SSH."""

from math import ceil
from typing import Literal

from cyclopts import App

from lazyvol.cli.docs import help_of
from lazyvol.cli.options import say
from lazyvol.errors import OptionError
from lazyvol.plan.budget import parse_bytes

#: memory of a job per byte that its workers may use: the rest is for the scheduler and the client
SHARE = 1.1

HEADS = {
    "slurm": """\
#!/usr/bin/env bash
# Submit this script by sbatch, from a folder that all nodes see.
#SBATCH --job-name=lazyvol
#SBATCH --ntasks={workers}
#SBATCH --cpus-per-task={threads}
#SBATCH --mem-per-cpu={mib_per_core}M
#SBATCH --time={hours:02d}:00:00

run=$SLURM_SUBMIT_DIR/lazyvol-$SLURM_JOB_ID
""",
    "pbs": """\
#!/usr/bin/env bash
# Submit this script by qsub, from a folder that all nodes see.
#PBS -N lazyvol
#PBS -l select={workers}:ncpus={threads}:mem={mib}mb
#PBS -l walltime={hours:02d}:00:00

cd "$PBS_O_WORKDIR"
run=$PBS_O_WORKDIR/lazyvol-$PBS_JOBID
""",
    "ssh": """\
#!/usr/bin/env bash
# Run this script in a folder that all hosts see under one path. The hosts need SSH without a
# password, and the same environment.
hosts="{hosts}"

run=$PWD/lazyvol-$$
""",
}

#: the certificates are those of one run, since a scheduler runs any code that it is sent
SERVICES = """\
workers={workers} threads={threads} memory={memory}
set -euo pipefail
mkdir -m 700 "$run"
openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj /CN=lazyvol \\
    -keyout "$run/key.pem" -out "$run/cert.pem" 2>/dev/null

tls=DASK_DISTRIBUTED__COMM__TLS__
cat >"$run/environment.sh" <<END
export PATH="$PATH"
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True ${{tls}}CA_FILE="$run/cert.pem"
export ${{tls}}SCHEDULER__CERT="$run/cert.pem" ${{tls}}SCHEDULER__KEY="$run/key.pem"
export ${{tls}}WORKER__CERT="$run/cert.pem" ${{tls}}WORKER__KEY="$run/key.pem"
export ${{tls}}CLIENT__CERT="$run/cert.pem" ${{tls}}CLIENT__KEY="$run/key.pem"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1
END
cat >"$run/worker.sh" <<END
. "$run/environment.sh"
exec dask worker --scheduler-file "$run/scheduler.json" --nworkers 1 --nthreads $threads \\
    --memory-limit $memory --nanny --no-dashboard --death-timeout 60 \\
    --local-directory "\\${{TMPDIR:-/tmp}}"
END
. "$run/environment.sh"

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
# the dashboard: ssh -L 8787:127.0.0.1:8787 and the name of this node
dask scheduler --protocol tls --port 0 --dashboard-address 127.0.0.1:8787 \\
    --scheduler-file "$run/scheduler.json" &
"""

STARTS = {
    "slurm": 'srun --ntasks="$workers" --cpus-per-task="$threads" bash "$run/worker.sh" &\n',
    "pbs": 'pbsdsh -- bash "$run/worker.sh" &\n',
    "ssh": 'for host in $hosts; do ssh "$host" bash "$run/worker.sh" & done\n',
}

WORK = """\
python -c "import sys; from distributed import Client
Client(scheduler_file=sys.argv[1]).wait_for_workers(int(sys.argv[2]), 600)" \\
    "$run/scheduler.json" "$workers"

# the work: commands with --scheduler, or scripts with lv.connect(path of the scheduler file)
lazyvol screen particles.zarr --out screened --scheduler "$run/scheduler.json"
"""

KUBERNETES = """\
# An image that holds lazyvol; data lie in buckets or on a volume that all pods mount. First:
#   openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj /CN=lazyvol \\
#       -keyout key.pem -out cert.pem
#   kubectl create secret generic lazyvol-tls --from-file=cert.pem --from-file=key.pem
#   lazyvol cluster recipe kubernetes | kubectl apply -f -
# Dashboard: kubectl port-forward deployment/lazyvol-scheduler 8787
apiVersion: v1
kind: ConfigMap
metadata: {{name: lazyvol}}
data:
  DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION: "True"
  DASK_DISTRIBUTED__COMM__TLS__CA_FILE: /tls/cert.pem
  DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__CERT: /tls/cert.pem
  DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__KEY: /tls/key.pem
  DASK_DISTRIBUTED__COMM__TLS__WORKER__CERT: /tls/cert.pem
  DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY: /tls/key.pem
  DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT: /tls/cert.pem
  DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY: /tls/key.pem
  OMP_NUM_THREADS: "1"
  MKL_NUM_THREADS: "1"
  OPENBLAS_NUM_THREADS: "1"
  NUMBA_NUM_THREADS: "1"
---
apiVersion: v1
kind: Service
metadata: {{name: lazyvol-scheduler}}
spec:
  selector: {{app: lazyvol, role: scheduler}}
  ports: [{{port: 8786}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: lazyvol-scheduler}}
spec:
  selector: {{matchLabels: {{app: lazyvol, role: scheduler}}}}
  template:
    metadata: {{labels: {{app: lazyvol, role: scheduler}}}}
    spec:
      volumes: [{{name: tls, secret: {{secretName: lazyvol-tls}}}}]
      containers:
        - name: scheduler
          image: {image}
          command: [dask, scheduler, --protocol, tls, --port, "8786",
                    --dashboard-address, "127.0.0.1:8787"]
          envFrom: [{{configMapRef: {{name: lazyvol}}}}]
          volumeMounts: [{{name: tls, mountPath: /tls, readOnly: true}}]
          resources: {{requests: {{cpu: "1", memory: 2Gi}}, limits: {{memory: 2Gi}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: lazyvol-workers}}
spec:
  replicas: {workers}
  selector: {{matchLabels: {{app: lazyvol, role: worker}}}}
  template:
    metadata: {{labels: {{app: lazyvol, role: worker}}}}
    spec:
      volumes: [{{name: tls, secret: {{secretName: lazyvol-tls}}}}]
      containers:
        - name: worker
          image: {image}
          command: [dask, worker, "tls://lazyvol-scheduler:8786", --nworkers, "1",
                    --nthreads, "{threads}", --memory-limit, "{memory}", --nanny, --no-dashboard,
                    --death-timeout, "60", --local-directory, /tmp]
          envFrom: [{{configMapRef: {{name: lazyvol}}}}]
          volumeMounts: [{{name: tls, mountPath: /tls, readOnly: true}}]
          resources:
            requests: {{cpu: "{threads}", memory: {mib}Mi}}
            limits: {{cpu: "{threads}", memory: {mib}Mi}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: lazyvol-screen}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      volumes: [{{name: tls, secret: {{secretName: lazyvol-tls}}}}]
      containers:
        - name: screen
          image: {image}
          command: [lazyvol, screen, "s3://bucket/particles.zarr", --out, /tmp/screened,
                    --scheduler, "tls://lazyvol-scheduler:8786"]
          envFrom: [{{configMapRef: {{name: lazyvol}}}}]
          volumeMounts: [{{name: tls, mountPath: /tls, readOnly: true}}]
"""


def recipe(
    kind: Literal["slurm", "pbs", "kubernetes", "ssh"],
    *,
    workers: int = 4,
    threads: int = 8,
    memory: str = "32GiB",
    hours: int = 2,
    image: str = "registry.example.org/lazyvol:latest",
) -> None:
    """Print a script or manifest that starts a Dask cluster and runs a command of lazyvol on it.

    Redirect it to a file, replace the command at its end by your own, and submit it. Connections
    are encrypted with a certificate of the run: whoever lacks it cannot use the cluster. All
    processes must see the input files, by one path or URL, and have one version of lazyvol.

    Parameters
    ----------
    kind
        Queue (slurm, pbs), kubernetes, or ssh for hosts without a queue.
    workers
        Number of worker processes; for ssh one on each host.
    threads
        Tasks that each worker runs at once, one core each.
    memory
        Memory of each worker; jobs request a tenth more, for the scheduler and the client.
    hours
        Time limit of a job.
    image
        Container image with lazyvol, for kubernetes.

    Examples
    --------
    lazyvol cluster recipe slurm --workers 10 --memory 64GiB > job.sh
    """
    for name, number in {"workers": workers, "threads": threads, "hours": hours}.items():
        if number < 1:
            raise OptionError(f"recipe: --{name} must be 1 or more, got {number}")
    mib = ceil(SHARE * parse_bytes(memory) / 2**20)
    facts = {
        "workers": workers, "threads": threads, "memory": memory, "hours": hours, "mib": mib,
        "mib_per_core": ceil(mib / threads), "image": image,
        "hosts": " ".join(f"node{n}" for n in range(1, workers + 1)),
    }  # fmt: skip
    if kind == "kubernetes":
        say(KUBERNETES.format(**facts).rstrip())
    else:
        say((HEADS[kind] + SERVICES).format(**facts) + STARTS[kind] + WORK.rstrip())


app = App(name="cluster", help_format="plaintext")
app.command(recipe, name="recipe", help=help_of(recipe.__doc__ or ""))
