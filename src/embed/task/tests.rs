use super::*;

#[test]
fn the_prompts_of_the_model_card() {
    let prompt = |task| TaskPrompts::default().prompt(&task).unwrap();
    assert_eq!(prompt(EmbeddingTask::Plain), "");
    assert_eq!(prompt(EmbeddingTask::Query), "task: search result | query: ");
    assert_eq!(prompt(EmbeddingTask::document()), "title: none | text: ");
    assert_eq!(prompt(EmbeddingTask::titled("Mars")), "title: Mars | text: ");
    assert_eq!(prompt(EmbeddingTask::QuestionAnswering), "task: question answering | query: ");
    assert_eq!(prompt(EmbeddingTask::FactChecking), "task: fact checking | query: ");
    assert_eq!(prompt(EmbeddingTask::Classification), "task: classification | query: ");
    assert_eq!(prompt(EmbeddingTask::Clustering), "task: clustering | query: ");
    assert_eq!(prompt(EmbeddingTask::SentenceSimilarity), "task: sentence similarity | query: ");
    assert_eq!(prompt(EmbeddingTask::CodeRetrieval), "task: code retrieval | query: ");
}

#[test]
fn the_checkpoints_own_prompts_win() {
    let own = [("query", "q: "), ("document", "d: "), ("STS", ""), ("Reranking", "r: ")];
    let prompts = TaskPrompts::new(own.map(|(name, prompt)| (name.to_string(), prompt.to_string())));
    let prompt = |task| prompts.prompt(&task);
    assert_eq!(prompt(EmbeddingTask::Query).unwrap(), "q: ");
    assert_eq!(prompt(EmbeddingTask::SentenceSimilarity).unwrap(), "");
    assert_eq!(prompt(EmbeddingTask::Clustering).unwrap(), "task: clustering | query: ");
    assert_eq!(prompt(EmbeddingTask::Named("Reranking".into())).unwrap(), "r: ");
    assert!(prompt(EmbeddingTask::titled("Mars")).unwrap_err().to_string().contains("no place for a title"));
    let missing = prompt(EmbeddingTask::Named("rank".into())).unwrap_err().to_string();
    assert!(missing.contains("'rank'") && missing.contains("Reranking"), "{missing}");
}
