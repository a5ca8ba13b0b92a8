//! A bucket that says "permission denied on orders/k1" where the library alone would time out.

use async_nats::jetstream::kv::{self, Store};
use bytes::Bytes;

use super::{Error, Guarded};
use solewriter_types::keyspace::BucketName;
use solewriter_types::kv_operation::{Operation, Target};

/// A bucket of the key-value store. What is not here is on [`Kv::store`], and can be run by
/// [`Guarded::run`].
#[derive(Clone)]
pub struct Kv {
    guarded: Guarded,
    /// `None` for a name that only the library takes: then it is left to itself.
    bucket: Option<BucketName>,
    store: Store,
}

impl Kv {
    pub(super) fn new(guarded: Guarded, bucket: Option<BucketName>, store: Store) -> Self {
        Self { guarded, bucket, store }
    }

    /// The library's own store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    async fn run<T, E>(
        &self,
        operation: Operation,
        key: Option<&str>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error<E>> {
        match self.bucket.clone() {
            Some(bucket) => {
                let target = Target::keys(bucket, key);
                self.guarded.run(operation, &target, work).await
            }
            None => work.await.map_err(Error::Failed),
        }
    }

    /// Puts a value. Gives its revision.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not write the key.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, Error<kv::PutError>> {
        self.run(Operation::Write, Some(key), self.store.put(key, value)).await
    }

    /// Puts a value where there is none. Gives its revision.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not write the key.
    pub async fn create(&self, key: &str, value: Bytes) -> Result<u64, Error<kv::CreateError>> {
        self.run(Operation::Write, Some(key), self.store.create(key, value)).await
    }

    /// Puts a value in place of a revision. Gives the new one.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not write the key.
    pub async fn update(
        &self,
        key: &str,
        value: Bytes,
        revision: u64,
    ) -> Result<u64, Error<kv::UpdateError>> {
        self.run(Operation::Write, Some(key), self.store.update(key, value, revision)).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not write the key.
    pub async fn delete(&self, key: &str) -> Result<(), Error<kv::DeleteError>> {
        self.run(Operation::Write, Some(key), self.store.delete(key)).await
    }

    /// Deletes a key with its history.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not write the key.
    pub async fn purge(&self, key: &str) -> Result<(), Error<kv::PurgeError>> {
        self.run(Operation::Write, Some(key), self.store.purge(key)).await
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not read the key.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error<kv::EntryError>> {
        self.run(Operation::Get, Some(key), self.store.get(key)).await
    }

    /// The value of a key, with its revision and time.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not read the key.
    pub async fn entry(&self, key: &str) -> Result<Option<kv::Entry>, Error<kv::EntryError>> {
        self.run(Operation::Get, Some(key), self.store.entry(key)).await
    }

    /// Changes of the keys of a pattern.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not watch them.
    pub async fn watch(&self, keys: &str) -> Result<kv::Watch, Error<kv::WatchError>> {
        // Boxed: a consumer's configuration makes it large.
        self.run(Operation::Watch, Some(keys), Box::pin(self.store.watch(keys))).await
    }

    /// The keys.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not list them.
    pub async fn keys(&self) -> Result<kv::Keys, Error<kv::HistoryError>> {
        self.run(Operation::Watch, None, self.store.keys()).await
    }
}
