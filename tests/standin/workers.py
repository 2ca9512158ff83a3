"""Workers with an environment of their own, named nemo_rl.<module>.<class>: the stand-in's and a launch's."""

#: A worker's class -> its module.
MODULES = {
    "MegatronPolicyWorker": "megatron_policy_worker",
    "DTensorPolicyWorker": "dtensor_policy_worker",
    "DTensorPolicyWorkerV2": "dtensor_policy_worker_v2",
    "VllmGenerationWorker": "vllm_worker",
    "VllmAsyncGenerationWorker": "vllm_worker_async",
    "NemoGym": "nemo_gym",
    "AsyncTrajectoryCollector": "async_utils",
    "ReplayBuffer": "async_utils",
}
