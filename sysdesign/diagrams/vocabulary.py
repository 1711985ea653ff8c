"""The words of the generator: real technologies by component type and provider, service names, and meaningless names.

Each technology names its icon in the `diagrams` package as `module:Class`, so that one table serves wiring and drawing.
"""

from __future__ import annotations

from collections.abc import Mapping

from sysdesign.graph import ComponentType

Technology = tuple[str, str, str]  # name as drawn, provider ("any" goes with every provider), icon

PROVIDERS = ("aws", "gcp", "azure", "open")

TECHNOLOGIES: Mapping[ComponentType, tuple[Technology, ...]] = {
    "client": (
        ("React", "any", "programming.framework:React"), ("Flutter", "any", "programming.framework:Flutter"),
        ("Swift", "any", "programming.language:Swift"), ("Kotlin", "any", "programming.language:Kotlin"),
        ("Vue", "any", "programming.framework:Vue"),
    ),
    "cdn": (
        ("CloudFront", "aws", "aws.network:CloudFront"), ("Cloud CDN", "gcp", "gcp.network:CDN"),
        ("Azure CDN", "azure", "azure.network:CDNProfiles"), ("Cloudflare", "open", "saas.cdn:Cloudflare"),
        ("Fastly", "any", "saas.cdn:Fastly"), ("Akamai", "open", "saas.cdn:Akamai"),
    ),
    "dns": (
        ("Route 53", "aws", "aws.network:Route53"), ("Cloud DNS", "gcp", "gcp.network:DNS"),
        ("Azure DNS", "azure", "azure.network:DNSZones"), ("PowerDNS", "open", "onprem.network:Powerdns"),
    ),
    "lb": (
        ("AWS ALB", "aws", "aws.network:ALB"), ("AWS NLB", "aws", "aws.network:NLB"),
        ("Cloud Load Balancing", "gcp", "gcp.network:LoadBalancing"), ("Azure Load Balancer", "azure", "azure.network:LoadBalancers"),
        ("HAProxy", "open", "onprem.network:HAProxy"), ("NGINX", "open", "onprem.network:Nginx"), ("Envoy", "open", "onprem.network:Envoy"),
    ),
    "gateway": (
        ("Amazon API Gateway", "aws", "aws.network:APIGateway"), ("Apigee", "gcp", "gcp.network:TrafficDirector"),
        ("Azure API Management", "azure", "azure.integration:APIManagement"), ("Kong", "open", "onprem.network:Kong"),
        ("Traefik", "open", "onprem.network:Traefik"), ("Tyk", "open", "onprem.network:Tyk"),
    ),
    "service": (
        ("Go", "any", "programming.language:Go"), ("Java", "any", "programming.language:Java"),
        ("Spring Boot", "any", "programming.framework:Spring"), ("Node.js", "any", "programming.language:NodeJS"),
        ("FastAPI", "any", "programming.framework:FastAPI"), ("Rust", "any", "programming.language:Rust"),
        ("Elixir", "any", "programming.language:Elixir"), (".NET", "any", "programming.framework:DotNet"),
        ("Amazon ECS", "aws", "aws.compute:ECS"), ("Cloud Run", "gcp", "gcp.compute:Run"),
        ("Azure App Service", "azure", "azure.compute:AppServices"), ("Django", "any", "programming.framework:Django"),
    ),
    "worker": (
        ("Celery", "open", "onprem.queue:Celery"), ("AWS Fargate", "aws", "aws.compute:Fargate"),
        ("Apache Flink", "any", "onprem.analytics:Flink"),
        ("Apache Spark", "any", "onprem.analytics:Spark"), ("Go worker", "any", "programming.language:Go"),
        ("Dataflow", "gcp", "gcp.analytics:Dataflow"), ("Stream Analytics", "azure", "azure.analytics:StreamAnalyticsJobs"),
        ("Python worker", "any", "programming.language:Python"),
    ),
    "function": (
        ("AWS Lambda", "aws", "aws.compute:Lambda"), ("Cloud Functions", "gcp", "gcp.compute:Functions"),
        ("Azure Functions", "azure", "azure.compute:FunctionApps"), ("Knative", "open", "k8s.compute:Pod"),
    ),
    "cache": (
        ("Redis", "any", "onprem.inmemory:Redis"), ("Memcached", "open", "onprem.inmemory:Memcached"),
        ("ElastiCache", "aws", "aws.database:Elasticache"), ("Memorystore", "gcp", "gcp.database:Memorystore"),
        ("Azure Cache for Redis", "azure", "azure.database:CacheForRedis"), ("Hazelcast", "open", "onprem.inmemory:Hazelcast"),
    ),
    "sql": (
        ("PostgreSQL", "any", "onprem.database:PostgreSQL"), ("MySQL", "any", "onprem.database:MySQL"),
        ("Amazon Aurora", "aws", "aws.database:Aurora"), ("Cloud Spanner", "gcp", "gcp.database:Spanner"),
        ("Azure SQL", "azure", "azure.database:SQLDatabases"), ("CockroachDB", "open", "onprem.database:CockroachDB"),
        ("MariaDB", "open", "onprem.database:MariaDB"),
    ),
    "nosql": (
        ("Cassandra", "open", "onprem.database:Cassandra"), ("MongoDB", "any", "onprem.database:MongoDB"),
        ("DynamoDB", "aws", "aws.database:Dynamodb"), ("Bigtable", "gcp", "gcp.database:Bigtable"),
        ("Cosmos DB", "azure", "azure.database:CosmosDb"), ("ScyllaDB", "open", "onprem.database:Scylla"),
        ("Neo4j", "open", "onprem.database:Neo4J"),
    ),
    "object": (
        ("Amazon S3", "aws", "aws.storage:S3"), ("Cloud Storage", "gcp", "gcp.storage:GCS"),
        ("Blob Storage", "azure", "azure.storage:BlobStorage"), ("Ceph", "open", "onprem.storage:Ceph"),
        ("MinIO", "open", "generic.storage:Storage"),
    ),
    "search": (
        ("Elasticsearch", "any", "elastic.elasticsearch:Elasticsearch"), ("OpenSearch", "aws", "aws.analytics:AmazonOpensearchService"),
        ("Apache Solr", "open", "onprem.search:Solr"), ("Azure AI Search", "azure", "azure.web:CognitiveSearch"),
    ),
    "queue": (
        ("RabbitMQ", "any", "onprem.queue:RabbitMQ"), ("Amazon SQS", "aws", "aws.integration:SQS"),
        ("Service Bus", "azure", "azure.integration:ServiceBus"), ("ActiveMQ", "open", "onprem.queue:ActiveMQ"),
        ("Cloud Tasks", "gcp", "gcp.analytics:Pubsub"),
    ),
    "stream": (
        ("Apache Kafka", "any", "onprem.queue:Kafka"), ("Kinesis", "aws", "aws.analytics:KinesisDataStreams"),
        ("Pub/Sub", "gcp", "gcp.analytics:Pubsub"), ("Event Hubs", "azure", "azure.analytics:EventHubs"),
        ("NATS", "open", "onprem.queue:Nats"),
    ),
    "warehouse": (
        ("Snowflake", "any", "saas.analytics:Snowflake"), ("Redshift", "aws", "aws.database:Redshift"),
        ("BigQuery", "gcp", "gcp.analytics:BigQuery"), ("Synapse", "azure", "azure.analytics:SynapseAnalytics"),
        ("ClickHouse", "open", "onprem.database:ClickHouse"), ("Apache Druid", "open", "onprem.database:Druid"),
    ),
    "scheduler": (
        ("Airflow", "any", "onprem.workflow:Airflow"), ("EventBridge Scheduler", "aws", "aws.integration:EventbridgeScheduler"),
        ("Cron", "open", "k8s.compute:Cronjob"), ("Cloud Composer", "gcp", "gcp.analytics:Composer"),
        ("Data Factory", "azure", "azure.analytics:DataFactories"),
    ),
    "model": (
        ("SageMaker", "aws", "aws.ml:Sagemaker"), ("Vertex AI", "gcp", "gcp.ml:VertexAI"),
        ("Azure OpenAI", "azure", "azure.ml:AzureOpenAI"), ("Triton", "open", "gcp.compute:GPU"),
        ("Kubeflow", "open", "onprem.workflow:KubeFlow"),
    ),
    "auth": (
        ("Cognito", "aws", "aws.security:Cognito"), ("Cloud IAM", "gcp", "gcp.security:Iam"),
        ("Entra ID", "azure", "azure.identity:AzureActiveDirectory"),
        ("Auth0", "any", "saas.identity:Auth0"), ("Okta", "any", "saas.identity:Okta"), ("Dex", "open", "onprem.identity:Dex"),
    ),
    "monitor": (
        ("Prometheus", "open", "onprem.monitoring:Prometheus"), ("Grafana", "any", "onprem.monitoring:Grafana"),
        ("CloudWatch", "aws", "aws.management:Cloudwatch"), ("Cloud Monitoring", "gcp", "gcp.operations:Monitoring"),
        ("Azure Monitor", "azure", "azure.monitor:Monitor"), ("Datadog", "any", "onprem.monitoring:Datadog"),
    ),
    "external": (
        ("Stripe", "any", "saas.payment:Stripe"), ("Adyen", "any", "saas.payment:Adyen"), ("PayPal", "any", "saas.payment:Paypal"),
        ("Twilio", "any", "saas.communication:Twilio"), ("PagerDuty", "any", "saas.alerting:Pagerduty"),
        ("SendGrid", "any", "azure.integration:SendgridAccounts"),
    ),
}  # fmt: skip

TYPE_ICONS: Mapping[ComponentType, str] = {
    "client": "onprem.client:Users", "cdn": "aws.network:CloudFrontEdgeLocation", "dns": "gcp.network:DNS",
    "lb": "gcp.network:LoadBalancing",
    "gateway": "aws.network:Endpoint", "service": "k8s.compute:Deploy", "worker": "k8s.compute:Job", "function": "gcp.compute:Functions",
    "cache": "aws.database:ElasticacheCacheNode", "sql": "generic.database:SQL", "nosql": "gcp.database:Datastore",
    "object": "generic.storage:Storage", "search": "azure.web:Search", "queue": "azure.storage:QueuesStorage",
    "stream": "onprem.queue:Emqx",
    "warehouse": "azure.database:SQLDatawarehouse", "scheduler": "k8s.compute:Cronjob", "model": "aws.ml:MachineLearning",
    "auth": "onprem.security:Vault", "monitor": "onprem.monitoring:Thanos", "external": "onprem.network:Internet",
}  # fmt: skip

TYPE_WORDS: Mapping[ComponentType, str] = {
    "client": "client", "cdn": "CDN", "dns": "DNS", "lb": "load balancer", "gateway": "gateway", "service": "service", "worker": "worker",
    "function": "function", "cache": "cache", "sql": "SQL", "nosql": "NoSQL", "object": "object store", "search": "search",
    "queue": "queue",
    "stream": "stream", "warehouse": "warehouse", "scheduler": "scheduler", "model": "ML model", "auth": "auth", "monitor": "monitor",
    "external": "external",
}  # fmt: skip

# Names for parts that a seed prompt does not list: enough that two variants of one seed seldom read alike.
EXTRA_NAMES: Mapping[ComponentType, tuple[str, ...]] = {
    "client": ("Web App", "Mobile App", "Partner Portal", "Admin Console", "Kiosk", "Back Office", "Public API Clients"),
    "cdn": ("Edge CDN", "Static CDN", "Media CDN"),
    "dns": ("Global DNS", "Edge DNS"),
    "lb": ("Load Balancer", "Ingress LB", "Internal LB", "Edge Proxy"),
    "gateway": ("API Gateway", "BFF", "Edge Gateway", "Partner Gateway"),
    "service": (
        "User Service", "Profile Service", "Session Service", "Catalog Service", "Order Service", "Pricing Service", "Inventory Service",
        "Notification Service", "Billing Service", "Quota Service", "Audit Service", "Ranking Service", "Comment Service", "Media Service",
        "Geo Service", "Config Service", "Rules Engine", "Consent Service", "Export Service", "Ledger Service", "Matching Service",
        "Report Service", "Rate Limiter", "ID Generator", "Tagging Service", "Policy Service", "Webhook Service", "Feature Flags",
    ),
    "worker": (
        "Email Worker", "Indexer", "Thumbnailer", "Aggregator", "Reconciler", "Cleanup Worker", "Enricher", "Fan-out Worker",
        "Deduplicator",
        "Archiver", "Exporter", "Retry Worker", "Compactor", "Translator",
    ),
    "function": ("Resize Function", "Webhook Handler", "Validator", "Token Signer", "Upload Trigger", "Redaction Function"),
    "cache": ("Session Cache", "Hot Cache", "Profile Cache", "Result Cache", "Token Cache", "Timeline Cache", "Catalog Cache"),
    "sql": ("User DB", "Order DB", "Billing DB", "Config DB", "Audit DB", "Catalog DB", "Ledger DB", "Report DB"),
    "nosql": ("Event Store", "Profile Store", "Session Store", "Activity Store", "Graph Store", "Time Series DB", "Document Store"),
    "object": ("Media Bucket", "Archive Bucket", "Upload Bucket", "Export Bucket", "Raw Data Lake"),
    "search": ("Search Index", "Log Index", "Catalog Index"),
    "queue": ("Job Queue", "Email Queue", "Retry Queue", "Dead Letter Queue", "Upload Queue", "Task Queue"),
    "stream": ("Event Bus", "Clickstream", "Change Log", "Audit Stream", "Metrics Stream"),
    "warehouse": ("Data Warehouse", "Analytics Store", "Finance Mart"),
    "scheduler": ("Nightly Scheduler", "Cron Scheduler", "Batch Scheduler"),
    "model": ("Ranking Model", "Fraud Model", "Embedding Model", "Forecast Model", "Moderation Model"),
    "auth": ("Auth Service", "Identity Provider", "Token Service"),
    "monitor": ("Metrics", "Monitoring", "Alerting", "Tracing"),
    "external": ("Payment Provider", "SMS Provider", "Email Provider", "Maps API", "Bank API", "Tax API", "KYC Provider"),
}  # fmt: skip

PROTOCOLS: Mapping[ComponentType, tuple[str, ...]] = {
    "client": ("WebSocket", "push"), "cdn": ("HTTPS",), "dns": ("DNS",), "lb": ("HTTPS",), "gateway": ("HTTPS",),
    "service": ("gRPC", "REST", "HTTP", "gRPC"), "worker": ("AMQP", "consume"), "function": ("invoke", "HTTP"), "cache": ("RESP", "TCP"),
    "sql": ("SQL",), "nosql": ("CQL", "TCP"), "object": ("HTTPS", "S3 API"), "search": ("HTTP",), "queue": ("AMQP", "enqueue"),
    "stream": ("publish", "produce"), "warehouse": ("COPY", "JDBC"), "scheduler": ("cron",), "model": ("gRPC", "HTTP"),
    "auth": ("OIDC", "JWT"),
    "monitor": ("OTLP", "scrape"), "external": ("HTTPS", "REST"),
}  # fmt: skip

# Meaningless names: nothing outside the picture tells what these are or how they are wired.
_STEMS = (
    "Vor", "Kel", "Zan", "Mip", "Tull", "Brax", "Quor", "Fen", "Dax", "Hol", "Jur", "Lom", "Nep", "Ost", "Pru", "Ril", "Syl", "Tev",
    "Ulm", "Wex",
    "Yar", "Gri", "Cob", "Aru", "Eln",
)  # fmt: skip
_ENDS = ("dan", "tor", "mex", "lin", "pod", "rak", "sett", "vane", "gus", "bo", "quil", "nar", "ith", "oma", "zel")
NONSENSE = tuple(stem + end for stem in _STEMS for end in _ENDS)
NONSENSE_TITLES = ("System", "Platform", "Network", "Plant", "Complex", "Array")
NONSENSE_ZONES = ("Ring", "Sector", "Block", "Bay", "Dome")
