"""Runs examples/sagemaker_job.py on an AWS account in memory, and prints the job that its SDK has started, as JSON.

    python sagemaker_account.py ARGUMENT...

The account has a bucket `runs` and a role `SageMaker` that SageMaker may assume. In `uploaded` are the names of what
the SDK has put into its own bucket.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import boto3
from moto import mock_aws
from moto.iam.exceptions import IAMException
from moto.iam.responses import IamResponse

EXAMPLE = Path(__file__).parents[3] / "examples" / "sagemaker_job.py"
REGION = "eu-west-1"
TRUSTED = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


def deny(_: IamResponse) -> None:
    """What a person may usually not ask: whether a role has permissions. moto cannot be asked at all."""
    raise IAMException("AccessDenied", "not authorized to perform iam:SimulatePrincipalPolicy")


def started() -> dict[str, Any]:
    """The one job of the account, as the service describes it."""
    client, storage = boto3.client("sagemaker"), boto3.client("s3")
    [job] = client.list_training_jobs()["TrainingJobSummaries"]
    own = [bucket["Name"] for bucket in storage.list_buckets()["Buckets"] if bucket["Name"] != "runs"]
    uploaded = [key["Key"] for name in own for key in storage.list_objects_v2(Bucket=name).get("Contents", [])]
    described: dict[str, Any] = client.describe_training_job(TrainingJobName=job["TrainingJobName"])
    return described | {"uploaded": uploaded}


def main() -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
    IamResponse.simulate_principal_policy = deny
    sys.argv[0] = str(EXAMPLE)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="runs", CreateBucketConfiguration={"LocationConstraint": REGION})
        policy = json.dumps({"Version": "2012-10-17", "Statement": [TRUSTED]})
        boto3.client("iam").create_role(RoleName="SageMaker", AssumeRolePolicyDocument=policy)
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        print(json.dumps(started(), default=str))


if __name__ == "__main__":
    main()
