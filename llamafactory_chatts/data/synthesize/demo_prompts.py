"""The wording of the demo samples, in Chinese and English."""

from dataclasses import dataclass


KINDS = ("spike", "level shift", "plateau", "pattern change")


@dataclass(frozen=True)
class Language:
    """Everything a row says in one language.

    Attributes:
        names: kind of anomaly -> its name in answers.
        kinds: the names, as the prompt lists them.
        form: what an answer has to look like.
        single: prompts about one series; ``{series}``, ``{length}``, ``{kinds}``, ``{form}``.
        line: introduces one of several series; ``{name}``, ``{length}``, ``{series}``.
        several: prompts about one of several series; ``{lines}``, ``{count}``, ``{name}``, ``{kinds}``, ``{form}``.
        metrics: names for one of several series.
    """

    names: dict[str, str]
    kinds: str
    form: str
    single: tuple[str, ...]
    line: str
    several: tuple[str, ...]
    metrics: tuple[str, ...]


CHINESE = Language(
    names=dict(zip(KINDS, ("竖直尖峰", "阶跃突变", "异常平台", "模式变化"))),
    kinds="竖直尖峰、阶跃突变、异常平台、模式变化",
    form=(
        '只输出JSON列表，例如 [{"interval":[起点,终点],"type":"类型"}]；'
        "下标从0开始，区间两端都包含；没有异常时输出 []。"
    ),
    single=(
        "下面是一条长度为{length}的时间序列：{series}。请找出其中的异常区间，并判断类型（可选：{kinds}）。{form}",
        "某监控指标最近{length}个采样点如下：{series}\n请检查它是否有异常，异常类型只能是{kinds}之一。{form}",
        "时序数据：{series}\n任务：异常检测。请给出每段异常的起止位置和类型，类型取自{kinds}。{form}",
        "值班工程师想知道这条曲线哪里不对劲：{series}（共{length}个点）。可能的问题有{kinds}。{form}",
    ),
    line="{name}（{length}个点）：{series}",
    several=(
        "以下是同一系统的{count}个指标：\n{lines}\n请只分析“{name}”，找出异常区间及类型（可选：{kinds}）。{form}",
        "{lines}\n上面给出{count}条序列，其中“{name}”有异常吗？类型只能是{kinds}之一。{form}",
    ),
    metrics=("CPU使用率", "内存占用", "请求延迟", "网络流量", "磁盘读写", "错误数", "队列长度", "温度"),
)

ENGLISH = Language(
    names={kind: kind for kind in KINDS},
    kinds=", ".join(KINDS),
    form=(
        'Answer with a JSON list only, such as [{"interval":[start,end],"type":"..."}]; points count from 0, '
        "both ends belong to the interval, and [] means that nothing is wrong."
    ),
    single=(
        "Here is a time series of {length} points: {series}. Mark every anomalous interval and name its type, "
        "one of {kinds}. {form}",
        "A sensor reported the last {length} readings as {series}\nCheck them for anomalies of these types: {kinds}. "
        "{form}",
        "Series: {series}\nTask: anomaly detection. Give the position and the type ({kinds}) of each anomaly. {form}",
        "The engineer on call wonders where this curve ({length} points) goes wrong: {series}. "
        "Known problems are {kinds}. {form}",
    ),
    line="{name} ({length} points): {series}",
    several=(
        'These are {count} metrics of one system:\n{lines}\nLook at "{name}" only. Which intervals are anomalous, and '
        "of which type ({kinds})? {form}",
        '{lines}\nOf the {count} series above, does "{name}" show anomalies? Possible types: {kinds}. {form}',
    ),
    metrics=("CPU usage", "memory", "request latency", "network traffic", "disk reads", "errors", "queue", "heat"),
)

LANGUAGES = (CHINESE, ENGLISH)
