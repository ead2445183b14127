"""A run on SageMaker, started by its Python SDK (3): in distrain's image, or in script mode, with files of your own.

    pip install sagemaker-train
    python examples/sagemaker_job.py --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/distrain:0.1.0 --role ARN \
        --train s3://BUCKET/train --output s3://BUCKET/runs --training-type accelerated

Needs: an AWS account that may start training jobs, the image in ECR (`make image`), and labelled texts in S3. The
default is one ml.g5.xlarge with a GPU of 24 GB; `distrain plan` says what a run takes.
Expect: the job's name. Its model comes to the output as model.tar.gz; a spot instance that is taken away continues
from its newest checkpoint. docs/sagemaker.md says what SageMaker's words mean to distrain. Not run on SageMaker itself:
a test sends this to an account in memory, and gives what was sent to the container's program.

In script mode (--source FOLDER --command "distrain train mine.yaml") SageMaker unpacks a folder of yours in the
container and starts the command there, so that settings can stand in a file; hyperparameters go over them. Its script
needs bash and pip in the image, as AWS's own for PyTorch have; a requirements.txt in the folder installs distrain.
"""

import argparse

from sagemaker.core.shapes import CheckpointConfig, OutputDataConfig, StoppingCondition
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

DAY = 24 * 3600


def main() -> None:
    options = arguments()
    trainer = ModelTrainer(
        training_image=options.image,
        role=options.role,
        base_job_name=options.name,
        source_code=SourceCode(source_dir=options.source, command=options.command) if options.source else None,
        compute=Compute(
            instance_type=options.instance_type,
            instance_count=1,
            volume_size_in_gb=100,
            enable_managed_spot_training=True,
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=DAY, max_wait_time_in_seconds=2 * DAY),
        output_data_config=OutputDataConfig(s3_output_path=options.output),
        checkpoint_config=CheckpointConfig(s3_uri=f"{options.output}/{options.name}-checkpoints"),
        hyperparameters={
            "training_type": options.training_type,  # basic: one process. accelerated: DDP, a process per GPU
            "model.name": options.model,
            "optimizer.learning_rate": 2e-5,
            "schedule.epochs": 3,
        },
    )
    channels = {"train": options.train, "validation": options.validation}
    trainer.train(
        [InputData(channel_name=name, data_source=uri) for name, uri in channels.items() if uri],
        wait=options.wait,
        logs=options.wait,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="distrain's image in ECR")
    parser.add_argument("--role", required=True, help="ARN of the role of the job")
    parser.add_argument("--train", required=True, help="S3 URI of the texts to train on: CSV, JSON lines or Parquet")
    parser.add_argument("--validation", help="S3 URI of the texts to evaluate on; without it some are held out")
    parser.add_argument("--output", required=True, help="S3 URI below which the model and checkpoints go")
    parser.add_argument("--name", default="distrain", help="begins the job's name")
    parser.add_argument("--model", default="distilbert/distilbert-base-uncased")
    parser.add_argument("--training-type", choices=["basic", "accelerated"], default="accelerated")
    parser.add_argument("--instance-type", default="ml.g5.xlarge")
    parser.add_argument("--source", help="script mode: the folder to unpack in the container")
    parser.add_argument("--command", default="distrain train", help="script mode: what is started in it")
    parser.add_argument("--wait", action="store_true", help="until the job ends, with its log")
    return parser.parse_args()


if __name__ == "__main__":
    main()
